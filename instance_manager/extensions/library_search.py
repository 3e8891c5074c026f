"""Where the server finds a library: ``expand_dynamic_library_name`` (dfmgr.c), step by step.

Pure over a question: whoever calls it says how to find out whether there is a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    IsThere = Callable[[str], bool]
    """Whether there is something at an absolute path that is no directory."""

SUFFIX: Final = ".so"
_MACRO: Final = "$libdir"
_BLANKS: Final = " \t\n\r\f\v"


class Search(NamedTuple):
    """How the server looks for libraries.

    *path* is ``dynamic_library_path``; *library_directory* what ``$libdir`` stands for, empty
    where it is not known.
    """

    path: str
    library_directory: str
    is_there: IsThere

    def find(self, name: str) -> str | None:
        """Return the file that ``load_file`` would open, or None where it would find none."""
        # The name as it is comes first: a file without a suffix hides the library.
        for file in (name, name + SUFFIX):
            try:
                found = self._in_place(file) if "/" in file else self._in_path(file)
            except ValueError:
                return None  # the server ends the search with an error
            if found:
                return found
        return None

    def _in_place(self, file: str) -> str | None:
        path = self._expand(file)
        return path if path.startswith("/") and self.is_there(path) else None

    def _in_path(self, file: str) -> str | None:
        # An empty parameter finds nothing; an empty element in it is an error (find_in_path).
        for element in self.path.split(":") if self.path else ():
            directory = self._expand(element)
            if not directory.startswith("/"):
                raise ValueError(element)
            path = f"{directory}/{file}"
            if self.is_there(path):
                return path
        return None

    def _expand(self, text: str) -> str:
        """Replace the macro at the beginning (``substitute_path_macro``)."""
        if not text.startswith("$"):
            return text
        macro, slash, rest = text.partition("/")
        # The server raises an error for any other macro, and goes no further.
        if macro != _MACRO:
            raise ValueError(text)
        return self.library_directory + slash + rest


def split_list(text: str) -> tuple[str, ...] | None:
    """Split a list of libraries as ``SplitDirectoriesString`` (varlena.c); None where it is none.

    The server logs a list that is none and loads nothing.
    """
    names: list[str] = []
    rest = text.lstrip(_BLANKS)
    while rest:
        if rest.startswith('"'):
            name, rest = _quoted(rest[1:])
        else:
            name, comma, rest = rest.partition(",")
            # Blanks within an unquoted name belong to it, those at its end do not.
            name, rest = name.rstrip(_BLANKS) or None, comma + rest
        if name is None or (rest and not rest.startswith(",")):
            return None
        names.append(name)
        # A comma at the end is an error: after one, a name must follow.
        if rest and not rest[1:].lstrip(_BLANKS):
            return None
        rest = rest[1:].lstrip(_BLANKS)
    return tuple(names)


def _quoted(text: str) -> tuple[str | None, str]:
    """Return what stands before the closing quote, and what follows; None without one."""
    parts: list[str] = []
    while True:
        part, quote, text = text.partition('"')
        if not quote:
            return None, ""
        parts.append(part)
        if not text.startswith('"'):
            return "".join(parts), text.lstrip(_BLANKS)
        parts.append('"')
        text = text[1:]
