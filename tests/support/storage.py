"""File systems of a size: real mounts, of root or in a namespace of an ordinary user's own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.manager import until

MIB = 1024 * 1024


@dataclass(frozen=True)
class Volume:
    """A tmpfs at *path*, for programs that are started with *prefix* before their command.

    An ordinary user can't mount where everybody sees it: then the tests find it at *seen*.
    """

    path: Path
    seen: Path
    prefix: tuple[str, ...]
    inside: tuple[str, ...]
    """What brings a command to where it may mount."""

    def become(self, access: Literal["ro", "rw"]) -> None:
        """Let nobody write there, or let those write again who might before."""
        # The mount, not the file system: a namespace of a user's own may change no more.
        self._run("mount", "-o", f"remount,bind,{access}", str(self.path))

    def unmount(self) -> None:
        """Take the mount away, also from under those who use it."""
        self._run("umount", "--lazy", str(self.path))

    def _run(self, *command: str) -> None:
        subprocess.run([*self.inside, *command], check=True, capture_output=True)


def fill(directory: Path, leave_bytes: int) -> Path:
    """Fill a file system but for so many bytes; return the file that does it."""
    filler = directory / "filler"
    figures = os.statvfs(directory)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, figures.f_bavail * figures.f_frsize - leave_bytes)
    return filler


@contextlib.contextmanager
def tmpfs(path: Path, size_bytes: int, inodes: int = 0) -> Iterator[Volume]:
    """Make *path* a file system of this size, which belongs to the owner of the directory above.

    Without a number of *inodes* there are plenty.
    """
    path.mkdir(exist_ok=True)
    owner = path.parent.stat()
    given = {"size": size_bytes, "mode": "0700"} | ({"nr_inodes": inodes} if inodes else {})
    if os.geteuid() == 0:
        given |= {"uid": owner.st_uid, "gid": owner.st_gid}
    options = ",".join(f"{name}={value}" for name, value in given.items())
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.geteuid() != 0:
        with _namespace(mount, path) as volume:
            yield volume
        return
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield Volume(path, path, (), ())
    finally:
        # It may have been taken away already.
        subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)


@contextlib.contextmanager
def _namespace(mount: list[str], path: Path) -> Iterator[Volume]:
    """Hold a namespace in which the mount is made; it goes with the last process in it."""
    script = '"$@" && echo mounted && exec sleep 3600'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *mount]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "mounted\n", "namespaces of users are needed"
            enter = ("nsenter", f"--target={holder.pid}", "--user", "--mount")
            # Back to the user's own number, without the rights of the namespace's root.
            ids = (f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}")
            prefix = (*enter, "--preserve-credentials", "unshare", "--user", *ids)
            seen = Path(f"/proc/{holder.pid}/root{path}")
            until(seen.is_dir, "the mount is seen")
            yield Volume(path, seen, prefix, (*enter, "--preserve-credentials"))
        finally:
            holder.kill()
