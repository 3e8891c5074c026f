"""What identifies the content of a volume, since the digest of its image can't be seen inside.

Only reads, and reads every byte: for a background thread, never on the way to the first
connection.
"""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.files import open_regular, read_at

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK_BYTES: Final = 1024 * 1024


def content_sha256(volume: Path) -> str:
    """Return a hash of everything in a volume, in hexadecimal.

    It covers, in the order of their paths, the path, the type, the permission bits, and the
    content or, of a link, the target. Links are not followed, but *volume* itself may be one.

    Raises:
        OSError: something in it can't be read.
    """
    # As bytes, since names need not be UTF-8 and the hash is of what is there.
    root = os.fsencode(volume.resolve(strict=True))
    total = sha256()
    # The order of a directory is the file system's own, and differs between copies.
    for path in sorted(_walk(root)):
        status = os.lstat(path)
        relative = os.path.relpath(path, root)
        # A path holds no NUL and the rest is of known length, so no two volumes read alike.
        total.update(b"%s\0%o %s\n" % (relative, status.st_mode, _content_hash(path, status)))
    return total.hexdigest()


def _walk(root: bytes) -> Iterator[bytes]:
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry.path
                # A link to a directory above would have no end.
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def _content_hash(path: bytes, status: os.stat_result) -> bytes:
    content = sha256()
    name = Path(os.fsdecode(path))
    if stat.S_ISLNK(status.st_mode):
        content.update(os.fsencode(name.readlink()))
    elif stat.S_ISREG(status.st_mode):
        with open_regular(name) as (descriptor, _):
            offset = 0
            # To the end, however long the file has become since it was opened.
            while part := read_at(descriptor, offset, _CHUNK_BYTES):
                content.update(part)
                offset += len(part)
    return content.hexdigest().encode()
