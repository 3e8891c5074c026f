"""File systems of a test's own that can be filled, frozen, made read-only, cut off and taken away.

A sparse file with ext4 on a loop device, or a tmpfs of a given size. Mounting needs root. Each is
a context manager that unmounts for sure, lazily as a last resort, and ends nobody's processes: who
still uses it keeps it until their end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.manager import until

MIB = 1024 * 1024
_SHUTDOWN = 0x8004587D
"""``EXT4_IOC_SHUTDOWN``, with one of its flags as a 32-bit number (linux/fs/ext4/ext4.h)."""
_NO_LOG_FLUSH = 2
_BALLAST = "ballast"
_FIRST_PIECE = 64 * MIB
_COMMAND_SECONDS = 60


class Volume:
    """A mounted file system; made by :func:`ext4` or :func:`tmpfs`."""

    def __init__(self, path: Path, options: list[str], source: str | Path) -> None:
        self.path = path
        self._options = options
        self._source = source

    def mount(self) -> None:
        """Mount it: also where it was detached."""
        _run("mount", *self._options, str(self._source), str(self.path))

    def unmount(self) -> None:
        """Unmount it, as soon as nobody uses it any more."""
        until(self._is_unmounted, f"{self.path} can be unmounted")

    def mount_anew(self) -> None:
        """Unmount an ext4 that was failed or cut off, and mount what has reached its disk.

        It is a copy of the disk that is mounted: the kernel would take the same disk for mounted
        still, for as long as any other mount namespace has it.
        """
        self.unmount()
        disk = Path(self._source)
        copy = disk.with_suffix(".copy")
        _run("cp", "--sparse=always", str(disk), str(copy))
        copy.rename(disk)
        self.mount()

    def detach(self) -> None:
        """Take it away from under those who use it: umount2(2) with ``MNT_DETACH``."""
        _run("umount", "--lazy", str(self.path))

    def _is_unmounted(self) -> bool:
        return not self.path.is_mount() or _succeeds("umount", str(self.path))

    def remount(self, option: str) -> None:
        """Change it to ``ro`` or ``rw``; nobody may have a file open for writing."""
        _run("mount", "--options", f"remount,{option}", str(self.path))

    def fail(self) -> None:
        """Make it read-only at once, as the kernel does when the disk has an error.

        Unlike a remount, this does not mind files that are open for writing. Source: sysfs-fs-ext4
        in the kernel's documentation, mount option ``errors=remount-ro``.
        """
        device = self.path.stat().st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text(
            "the disk fails", encoding="ascii"
        )

    def fill(self) -> None:
        """Take all of the free space, to the last byte."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path / _BALLAST, flags, 0o600)
        try:
            size, piece = os.fstat(descriptor).st_size, _FIRST_PIECE
            while piece:
                try:
                    os.posix_fallocate(descriptor, size, piece)
                    size += piece
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Give back what :meth:`fill` took."""
        (self.path / _BALLAST).unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all writing to it while the context lasts: fsfreeze(8).

        A process of its own thaws it, so that it is thawed even if this one is killed.
        """
        with subprocess.Popen(
            ["sh", "-c", 'read -r _; exec fsfreeze --unfreeze "$1"', "sh", str(self.path)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        ) as thaw:
            try:
                _run("fsfreeze", "--freeze", str(self.path))
                yield
            finally:
                assert thaw.stdin is not None
                thaw.stdin.close()
                thaw.wait(_COMMAND_SECONDS)

    def cut_power(self) -> None:
        """Let nothing more reach the disk, not even the journal: what was not synced is lost."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("=I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def ext4(path: Path, size_bytes: int) -> Iterator[Volume]:
    """Mount a new ext4 of that size at *path*; it belongs to the owner of the directory above.

    No space is kept for root. An error makes it read-only.
    """
    image = path.with_name(f"{path.name}.img")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    try:
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        options = ["--types", "ext4", "--options", "loop,errors=remount-ro"]
        with _mounted(Volume(path, options, image)) as volume:
            yield volume
    finally:
        image.unlink()


@contextlib.contextmanager
def tmpfs(path: Path, size_bytes: int) -> Iterator[Volume]:
    """Mount a new tmpfs of that size at *path*; it belongs to the owner of the directory above."""
    options = ["--types", "tmpfs", "--options", f"size={size_bytes}"]
    with _mounted(Volume(path, options, "none")) as volume:
        yield volume


@contextlib.contextmanager
def unanswering(path: Path) -> Iterator[None]:
    """Mount a file system at *path* whose calls nobody answers while the context lasts.

    A FUSE without a server: each call waits, and fails at the end of the context. Source: fuse(4).
    """
    path.mkdir(exist_ok=True)
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other"
    try:
        # By a call: the program of that name would look at the directory first.
        names = (b"unanswering", os.fsencode(path), b"fuse")
        done = ctypes.CDLL(None, use_errno=True).mount(*names, 0, options.encode())
        assert done == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        os.close(descriptor)
        _run("umount", "--lazy", str(path))


@contextlib.contextmanager
def _mounted(volume: Volume) -> Iterator[Volume]:
    volume.path.mkdir(exist_ok=True)
    owner = volume.path.parent.stat()
    os.chown(volume.path, owner.st_uid, owner.st_gid)
    try:
        volume.mount()
        os.chown(volume.path, owner.st_uid, owner.st_gid)
        yield volume
    finally:
        if volume.path.is_mount():
            _take_away(volume)


def _take_away(volume: Volume) -> None:
    try:
        volume.unmount()
    except AssertionError:
        if volume.path.is_mount():
            volume.detach()
        raise


def _block_device(number: int) -> Path:
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _succeeds(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, timeout=_COMMAND_SECONDS, check=False)
    return done.returncode == 0
