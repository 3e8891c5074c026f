"""Debian's words: stanzas, names of packages, alternatives, addresses of packages.

Pure: texts in, values out.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from instance_manager.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Apt takes a minus or plus at the end for an order of its own, as long as no package is called so.
_PACKAGE: Final = re.compile(
    r"[a-z0-9][a-z0-9+.-]*(?:[a-z0-9]|\+\+)(?:=[A-Za-z0-9.+:~-]+|/[a-z][a-z0-9.-]*)?"
)
_MAJOR: Final = re.compile(r"postgresql-(\d+)-|postgresql-[a-z].*-(\d+)$")
_ALTERNATIVE: Final = re.compile(r"--(?:install|slave)\s+(\S+)\s+\S+\s+(\S+)")
_ASSIGNMENT: Final = re.compile(r'^\s*(\w+)="?([^"\n]*)"?$', re.MULTILINE)
_SCALAR: Final = re.compile(r"^(\S+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)


def checked_package(text: str) -> str:
    """Return *text* if apt may be given it as a package: no option, no pattern.

    Raises:
        UsageError: it is none.
    """
    if not _PACKAGE.fullmatch(text):
        raise UsageError(
            f"cannot use --package {text!r}: it is no name of a package",
            hint="such as postgresql-18-pgvector, postgresql-18-cron=1.6.7-2 or NAME/SUITE",
        )
    return text


def bare_package(text: str) -> str:
    """Return the name of a package without version and suite."""
    return re.split("[=/]", text, maxsplit=1)[0]


def major_of(package: str) -> int | None:
    """Return the PostgreSQL that a package of an extension is for, by its name."""
    match = _MAJOR.match(package)
    return int(match[1] or match[2]) if match else None


def short_name(package: str) -> str:
    """Return what an extension's package is called without PostgreSQL's name and version."""
    if major_of(package) is None:
        return package
    match = re.fullmatch(r"postgresql-\d+-(.+)|postgresql-(.+)-\d+", package)
    return (match[1] or match[2]) if match else package


def parse_stanza(text: str) -> dict[str, str]:
    """Return the fields of one stanza of a control file; names as they are written."""
    return {match[1]: match[2].strip() for match in _SCALAR.finditer(text)}


def source_of(fields: Mapping[str, str]) -> str:
    """Return the name of the source that a package was built from."""
    source = fields.get("Source") or fields.get("Package", "")
    # A version in parentheses follows where it differs from the package's (deb-control(5)).
    return source.partition(" ")[0]


def alternatives(script: str) -> Iterator[tuple[str, str]]:
    """Yield the links that a ``postinst`` makes with update-alternatives, and where they lead.

    Straight to the file, since the link in between is the host's: both as paths of the root.
    """
    # A command of a shell goes on behind a backslash at the end of a line.
    script = script.replace("\\\n", " ")
    # The last one first: it may be made of earlier ones.
    for name, value in reversed(_ASSIGNMENT.findall(script)):
        script = re.sub(rf"\$(?:{name}\b|{{{name}}})", value.replace("\\", r"\\"), script)
    for link, target in _ALTERNATIVE.findall(script):
        # What still holds a variable can't be known without running the script.
        if link.startswith("/") and target.startswith("/") and "$" not in link + target:
            yield posixpath.normpath(link).lstrip("/"), posixpath.normpath(target).lstrip("/")


def is_own(name: str, source: str, asked: Mapping[str, str]) -> bool:
    """Say whether a package is a part of those that were asked for.

    Those have names and sources; what belongs to one has a name that begins with its, or comes
    from the same source: PostGIS has its scripts in a package of their own.
    """
    return name in asked or any(
        name.startswith(f"{each}-") or source == its_source for each, its_source in asked.items()
    )


def package_url(vendor: str, name: str, version: str, architecture: str) -> str:
    """Return the address of a package (package-url/purl-spec, type deb)."""
    vendor = quote(vendor or "debian", safe="")
    return f"pkg:deb/{vendor}/{quote(name)}@{quote(version, safe='')}?arch={quote(architecture)}"


def parse_os_release(text: str) -> dict[str, str]:
    """Return what os-release(5) says, without quotes."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value.strip().strip("\"'") for name, equals, value in pairs if equals}
