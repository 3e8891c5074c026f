"""Looking into one volume: its directories, links and files, and what can't be got past.

Only reads. Files come and go while it looks, links lead anywhere, and a name may be a FIFO; none
of that may raise, block or cost unbounded time. What stops it becomes a finding.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.facts import join
from instance_manager.extensions.files import open_regular, read_at
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.paths import display

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instance_manager.extensions.models import Finding

_MAXIMUM_ENTRIES: Final = 20_000
_MAXIMUM_SAME_FINDINGS: Final = 20
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
NO_TARGET: Final = _MISSING | {errno.ELOOP}
"""What the kernel says of a link that leads nowhere."""


def is_library(name: str) -> bool:
    """Say whether a file of this name is meant for the loader."""
    return name.endswith(".so") or ".so." in name


def dangling(subject: str, path: Path, error: OSError) -> Finding:
    """Return the finding of a link that leads nowhere."""
    if error.errno == errno.ELOOP:
        message = f"{subject} is a symbolic link that leads back to itself"
    else:
        message = f"{subject} is a dangling symbolic link to {_target(path)}"
    if subject.endswith(".control"):
        message += "; it would break pg_available_extensions for the whole server"
    return finding(Code.DANGLING_LINK, subject, message)


def _target(path: Path) -> str:
    try:
        return display(str(path.readlink()))
    except OSError:
        return "something that vanished"


class VolumeReader:
    """Reads in the volume at *path*, an absolute path, and notes what it can't get past.

    The manager and the server are the same user, so that what can't be read here can't be there.
    Paths in and out are relative to the volume; an absolute one is taken as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.real = Path(os.path.realpath(path))
        self._notes: dict[Finding, None] = {}
        self._counts: Counter[str] = Counter()
        self._plain: set[str] = set()
        self._listings: dict[str, Mapping[str, os.DirEntry[str]] | None] = {}

    def note(self, obstacle: Finding) -> None:
        """Keep a finding; the same one is kept once, and of one kind only so many."""
        if obstacle in self._notes:
            return
        self._counts[obstacle.code] += 1
        if self._counts[obstacle.code] <= _MAXIMUM_SAME_FINDINGS:
            self._notes[obstacle] = None

    def note_unreadable(self, subject: str, error: OSError) -> None:
        """Note why something can't be read; not if it is simply not, or no longer, there."""
        # What is not there is judged by what needs it.
        if error.errno in _MISSING:
            return
        message = f"{subject} is not readable: {error.strerror or error}"
        # Root in a user namespace is refused as well: the number says whose rights count.
        if error.errno in {errno.EACCES, errno.EPERM}:
            message = f"{subject} is not readable by the server's user (uid {os.geteuid()})"
        self.note(finding(Code.UNREADABLE, subject, message))

    def note_limit(self, subject: str, limit: str) -> None:
        """Note that there is more than is read."""
        self.note(finding(Code.LIMIT, subject, f"{subject} holds more than {limit}"))

    def notes(self) -> tuple[Finding, ...]:
        """Return what was noted, and how much more there is of each kind."""
        more = (
            finding(Code(code), "", f"{count - _MAXIMUM_SAME_FINDINGS} more findings of this kind")
            for code, count in self._counts.items()
            if count > _MAXIMUM_SAME_FINDINGS
        )
        return (*self._notes, *more)

    def is_directory(self, relative: str) -> bool:
        """Say whether there is such a directory."""
        path = self.path / relative
        try:
            # First where it leads: a link out of the volume is worth a word even where the rest is
            # fine.
            return self._leads_on(relative) and stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            self.note_unreadable(display(relative), error)
            return False

    def files(self, directory: str) -> Mapping[str, os.DirEntry[str]] | None:
        """Return the regular files that matter, in the order of their names.

        Control files, scripts, libraries, and files without a suffix, which hide libraries; only
        those that can be read. None where there is no such directory.
        """
        if directory not in self._listings:
            try:
                self._leads_on(directory)
                self._listings[directory] = self._list(directory)
            except OSError as error:
                self._listings[directory] = None
                self.note_unreadable(display(directory), error)
        return self._listings[directory]

    def read(self, relative: str, maximum_bytes: int) -> bytes | None:
        """Return a file's content, or None, and a note if it is there."""
        path, subject = self.path / relative, display(relative)
        try:
            if not self._leads_on(relative):
                return None
            with open_regular(path) as (descriptor, _):
                # One more than is taken, to see that there is more; a size may have changed since
                # it was asked.
                content = read_at(descriptor, 0, maximum_bytes + 1)
        except OSError as error:
            self.note_unreadable(subject, error)
            return None
        if len(content) > maximum_bytes:
            self.note_limit(subject, f"{maximum_bytes} bytes")
            return None
        return content

    def _list(self, directory: str) -> Mapping[str, os.DirEntry[str]]:
        files: list[tuple[str, os.DirEntry[str]]] = []
        with os.scandir(self.path / directory) as entries:
            # One more than is read, to see that there are more.
            for count, entry in enumerate(islice(entries, _MAXIMUM_ENTRIES + 1)):
                if count == _MAXIMUM_ENTRIES:
                    self.note_limit(display(directory), f"{_MAXIMUM_ENTRIES} files")
                elif _matters(entry.name) and self._is_usable(directory, entry):
                    files.append((entry.name, entry))
        # Directories are listed in the file system's own order, and findings should be the same
        # each time.
        return dict(sorted(files, key=itemgetter(0)))

    def _is_usable(self, directory: str, entry: os.DirEntry[str]) -> bool:
        subject = display(join(directory, entry.name))
        try:
            if entry.is_symlink() and not self._leads_on(join(directory, entry.name)):
                return False
            if entry.is_file():
                return True
            # The server passes over directories, unless it takes one for a control file.
            is_passed_over = entry.is_dir() and not entry.name.endswith(".control")
        except OSError as error:
            self.note_unreadable(subject, error)
            return False
        if not is_passed_over:
            self.note_unreadable(subject, OSError("it is not a regular file"))
        return False

    def _leads_on(self, relative: str) -> bool:
        """Say whether a path leads to something; note where it leads out of the volume.

        Raises:
            OSError: it does not exist, or a directory on the way can't be searched.
        """
        if self._is_plain(relative):
            return True
        path, subject = self.path / relative, display(relative)
        try:
            # Strict, since a path that ends nowhere looks like any other otherwise.
            target = Path(os.path.realpath(path, strict=True))
        except OSError as error:
            if error.errno in NO_TARGET and path.is_symlink():
                self.note(dangling(subject, path, error))
                return False
            raise
        if target != self.real and self.real not in target.parents:
            message = f"{subject} points outside the volume ({display(str(target))})"
            self.note(finding(Code.LINK_ESCAPE, subject, message))
        return True

    def _is_plain(self, relative: str) -> bool:
        """Say whether no part of a path is a link: cheaper to know than where a path leads."""
        if relative in self._plain or relative == ".":
            return True
        directory, _, name = relative.rpartition("/")
        if name in {"", ".."} or (directory and not self._is_plain(directory)):
            return False
        if stat.S_ISLNK((self.path / relative).lstat().st_mode):
            return False
        self._plain.add(relative)
        return True


def _matters(name: str) -> bool:
    return name.endswith((".control", ".sql")) or "." not in name or is_library(name)
