"""The law of findings: each code, its one severity, what it means, and the way out.

Pure. Codes are stable: programs and alerts match them. A condition has one code; a code has one
severity.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from instance_manager.extensions.models import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Mapping


class Code(StrEnum):
    """Every condition that the preflight knows."""

    NOT_A_MOUNT = "EXT001"
    EMPTY = "EXT002"
    WRITABLE = "EXT003"
    NOEXEC = "EXT004"
    BAD_NAME = "EXT005"
    UNREADABLE = "EXT006"
    SERVER_TOO_OLD = "EXT007"
    ABSENT = "EXT008"
    REQUIRED_ABSENT = "EXT009"
    DANGLING_LINK = "EXT010"
    LINK_ESCAPE = "EXT011"
    CONTROL_SYNTAX = "EXT012"
    NO_DEFAULT_SCRIPT = "EXT013"
    SCRIPT_DIRECTORY = "EXT014"
    DUPLICATE = "EXT016"
    TRUSTED = "EXT018"
    MODULE_MISSING = "EXT021"
    SUFFIXLESS = "EXT023"
    METADATA = "EXT024"
    LIMIT = "EXT025"
    BAD_PATH = "EXT026"
    PATH_MISSING = "EXT027"
    ELF_INVALID = "EXT030"
    MACHINE = "EXT031"
    NO_MAGIC = "EXT032"
    POSTGRES_MAJOR = "EXT033"
    ABI = "EXT034"
    MAGIC_UNKNOWN = "EXT035"
    BAD_LIBRARY = "EXT045"
    PRELOAD_NEEDED = "EXT050"
    PARAMETER_REFUSED = "EXT057"
    ENVIRONMENT = "EXT060"


class Rule(NamedTuple):
    """What holds for every finding of a code."""

    severity: Severity
    title: str
    hint: str


_ERROR: Final = Severity.ERROR
_WARNING: Final = Severity.WARNING
_INFO: Final = Severity.INFO
_REBUILD: Final = "rebuild the extension image"

RULES: Final[Mapping[Code, Rule]] = MappingProxyType(
    {
        Code.NOT_A_MOUNT: Rule(
            _WARNING,
            "the directory is not a mount point",
            "mount the extension image there, or remove the directory",
        ),
        Code.EMPTY: Rule(
            _WARNING,
            "the volume offers nothing",
            "put control files into share/extension and libraries into lib",
        ),
        Code.WRITABLE: Rule(_WARNING, "the volume can be written to", "mount it read-only"),
        Code.NOEXEC: Rule(
            _ERROR,
            "libraries lie on a mount without execution",
            "mount it without noexec",
        ),
        Code.BAD_NAME: Rule(
            _ERROR,
            "the name can't be used",
            "use at most 59 lower-case letters, digits, '-' and '_', with a letter or digit at"
            " both ends",
        ),
        Code.UNREADABLE: Rule(
            _ERROR,
            "a file or directory can't be read by the server",
            "make it readable for everybody in the extension image",
        ),
        Code.SERVER_TOO_OLD: Rule(
            _ERROR,
            "the server has no extension volumes",
            "use PostgreSQL 18 or later, or remove the volume",
        ),
        Code.ABSENT: Rule(
            _WARNING,
            "a listed volume is not there",
            "mount it, or take it out of extensions.volumes",
        ),
        Code.REQUIRED_ABSENT: Rule(
            _ERROR,
            "a required volume is not there",
            "mount it, or take `required` off its entry in extensions.volumes",
        ),
        Code.DANGLING_LINK: Rule(
            _ERROR,
            "a link leads nowhere",
            "put the file itself into the extension image",
        ),
        Code.LINK_ESCAPE: Rule(
            _WARNING,
            "a link or path leads out of the volume",
            "put the file itself into the extension image",
        ),
        Code.CONTROL_SYNTAX: Rule(
            _ERROR,
            "a control file is not valid",
            "correct the control file in the extension image",
        ),
        Code.NO_DEFAULT_SCRIPT: Rule(
            _ERROR,
            "the extension can't be created",
            "add the installation script, or correct default_version in the control file",
        ),
        Code.SCRIPT_DIRECTORY: Rule(
            _ERROR,
            "the script directory is missing",
            "correct `directory` in the control file, or add the directory",
        ),
        Code.DUPLICATE: Rule(
            _WARNING,
            "two volumes offer one extension",
            "order the volumes in extensions.volumes, or remove one",
        ),
        Code.TRUSTED: Rule(
            _INFO,
            "the extension is trusted",
            "grant CREATE on databases only to roles that may install it",
        ),
        Code.MODULE_MISSING: Rule(
            _ERROR,
            "the extension's library is missing",
            "add the library to lib in the extension image, or mount the volume that holds it",
        ),
        Code.SUFFIXLESS: Rule(
            _WARNING,
            "a file hides a library",
            "remove the file without a suffix from the extension image",
        ),
        Code.METADATA: Rule(
            _ERROR,
            "share/instance-manager/extension.json is not valid",
            "correct the file in the extension image, or leave it out",
        ),
        Code.LIMIT: Rule(
            _ERROR,
            "more or larger than the manager reads",
            "make the extension image smaller, or split it",
        ),
        Code.BAD_PATH: Rule(
            _ERROR,
            "a path can't be used",
            "give paths inside the volume, without '..' and without characters that separate"
            " search paths",
        ),
        Code.PATH_MISSING: Rule(
            _WARNING,
            "a listed path is not in the volume",
            "correct the path in extensions.volumes or in the volume's metadata",
        ),
        Code.ELF_INVALID: Rule(_ERROR, "a module is not a shared object", _REBUILD),
        Code.MACHINE: Rule(
            _ERROR,
            "a library is for another machine",
            "use the extension image of the server's platform",
        ),
        Code.NO_MAGIC: Rule(
            _ERROR,
            "a library that the server loads is no module",
            "build it with PG_MODULE_MAGIC, or correct module_pathname in the control file",
        ),
        Code.POSTGRES_MAJOR: Rule(
            _ERROR,
            "a module is for another PostgreSQL",
            "use the extension image of the server's major version",
        ),
        Code.ABI: Rule(
            _ERROR,
            "a module is for a server that was built otherwise",
            "build the extension against this server",
        ),
        Code.MAGIC_UNKNOWN: Rule(
            _WARNING,
            "a module's magic block can't be read",
            "the server itself checks the module when it loads it",
        ),
        Code.BAD_LIBRARY: Rule(_ERROR, "a third-party library can't be loaded", _REBUILD),
        Code.PRELOAD_NEEDED: Rule(
            _WARNING,
            "a library wants to be loaded at the start",
            "list the volume in extensions.volumes, or the library in"
            " postgres.shared_preload_libraries",
        ),
        Code.PARAMETER_REFUSED: Rule(
            _WARNING,
            "a parameter of the volume's metadata is not used",
            "set it in postgres.parameters if it is wanted",
        ),
        Code.ENVIRONMENT: Rule(
            _ERROR,
            "the volume's environment can't be set",
            "change the variable in extensions.volumes or in the volume's metadata",
        ),
    }
)


def finding(code: Code, subject: str, message: str) -> Finding:
    """Return the finding of this *code*: severity and hint are the table's."""
    rule = RULES[code]
    return Finding(
        code=code.value, severity=rule.severity, subject=subject, message=message, hint=rule.hint
    )
