"""A read-only file system, told as what it is, before anything is written.

A volume becomes read-only when its mount says so, or when the kernel meets an error on it. Most
file systems show that to statvfs(2); some only refuse the first write, with EROFS.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from instance_manager.errors import DataDirectoryError, DataDirectoryReadOnlyError, DiskSpaceError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def require_writable(directory: Path) -> None:
    """Raise DataDirectoryReadOnlyError if the file system of *directory* is read-only.

    Where it is missing, that of the nearest directory above, in which it would be made.
    """
    for place in (directory, *directory.absolute().parents):
        try:
            figures = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return  # said with its reason by who uses the directory
        if figures.f_flag & os.ST_RDONLY:
            raise refusal(directory)
        return


def refusal(directory: Path) -> DataDirectoryReadOnlyError:
    """Return the error for a directory that can't be written because of its file system."""
    return DataDirectoryReadOnlyError(
        f"cannot write directory {str(directory)!r}: its file system is read-only",
        hint="mount a volume there, read-write; the kernel makes one read-only after an error of"
        " the disk: see its log",
    )


@contextmanager
def told(directory: Path) -> Generator[None]:
    """Give errors of a full or read-only file system their own names; let all others through.

    Raises:
        DataDirectoryReadOnlyError: something was refused with EROFS.
        DiskSpaceError: something was refused with ENOSPC or EDQUOT.
    """
    try:
        yield
    except (OSError, DataDirectoryError) as error:
        # Errors of ours carry the system's error as their cause.
        cause = error if isinstance(error, OSError) else error.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        if number == errno.EROFS:
            raise refusal(directory) from error
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise DiskSpaceError(
                str(error), hint="enlarge the volume, or free space on it"
            ) from error
        raise
