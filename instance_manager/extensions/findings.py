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
    REQUIRES = "EXT015"
    DUPLICATE = "EXT016"
    SHADOWED = "EXT017"
    TRUSTED = "EXT018"
    LOAD_LIBDIR = "EXT019"
    NESTED_LIBDIR = "EXT020"
    MODULE_MISSING = "EXT021"
    MODULE_ELSEWHERE = "EXT022"
    SUFFIXLESS = "EXT023"
    METADATA = "EXT024"
    LIMIT = "EXT025"
    BAD_PATH = "EXT026"
    PATH_MISSING = "EXT027"
    CATALOGUE_DIFFERS = "EXT028"
    CATALOGUE_UNREAD = "EXT029"
    ELF_INVALID = "EXT030"
    MACHINE = "EXT031"
    NO_MAGIC = "EXT032"
    POSTGRES_MAJOR = "EXT033"
    ABI = "EXT034"
    MAGIC_UNKNOWN = "EXT035"
    MISSING_LIBRARY = "EXT040"
    SYMBOL_VERSION = "EXT041"
    UNDEFINED_SYMBOL = "EXT042"
    SHADOWS_SERVER = "EXT043"
    LIBRARY_CONFLICT = "EXT044"
    BAD_LIBRARY = "EXT045"
    NO_MODULES = "EXT046"
    UNUSED_MISSING_LIBRARY = "EXT047"
    BREAKS_SERVER = "EXT048"
    PRELOAD_NEEDED = "EXT050"
    PRELOAD_MISSING = "EXT051"
    PRELOAD_LIBDIR = "EXT052"
    PRELOAD_ORDER = "EXT053"
    OUTPUT_PLUGIN = "EXT054"
    LOCAL_PRELOAD = "EXT055"
    JIT = "EXT056"
    PARAMETER_REFUSED = "EXT057"
    ENVIRONMENT = "EXT060"
    DATA_MISSING = "EXT061"
    VANISHED = "EXT070"
    UPDATE_AVAILABLE = "EXT071"
    NO_UPDATE_PATH = "EXT072"
    SESSION_LIBRARY = "EXT073"
    REHEARSAL = "EXT080"
    LOADER_DISAGREES = "EXT081"
    LIBRARY_REPLACED = "EXT082"


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
        # A warning: where people only try things out, no volume is a mount.
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
        # An error, since for a control file it breaks pg_available_extensions for everybody.
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
        # A warning: another version may be there, and nobody else is hindered.
        Code.NO_DEFAULT_SCRIPT: Rule(
            _WARNING,
            "the extension can't be created",
            "add the installation script, or correct default_version in the control file",
        ),
        # An error: pg_available_extension_versions fails for all extensions.
        Code.SCRIPT_DIRECTORY: Rule(
            _ERROR,
            "the script directory is missing",
            "correct `directory` in the control file, or add the directory",
        ),
        Code.REQUIRES: Rule(
            _WARNING,
            "an extension that this one requires is missing",
            "mount the volume that holds it",
        ),
        Code.DUPLICATE: Rule(
            _WARNING,
            "two volumes offer one extension",
            "order the volumes in extensions.volumes, or remove one",
        ),
        Code.SHADOWED: Rule(
            _WARNING,
            "the server's own copy of the extension hides this one",
            "remove the volume, or use a server without that extension",
        ),
        Code.TRUSTED: Rule(
            _INFO,
            "the extension is trusted",
            "grant CREATE on databases only to roles that may install it",
        ),
        Code.LOAD_LIBDIR: Rule(
            _WARNING,
            "a script loads a library from the server's own directory",
            "write LOAD 'name' without $libdir in the script; the update fails until then",
        ),
        Code.NESTED_LIBDIR: Rule(
            _WARNING,
            "a library is asked for in a directory below the server's own",
            "put the library into lib itself and name it without a directory",
        ),
        Code.MODULE_MISSING: Rule(
            _ERROR,
            "the extension's library is missing",
            "add the library to lib in the extension image, or mount the volume that holds it",
        ),
        Code.MODULE_ELSEWHERE: Rule(
            _WARNING,
            "the library of an extension comes from another volume",
            "order the volumes in extensions.volumes, or rename one of the libraries",
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
        # An error: of what was not read, nothing is proven.
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
        # A warning: nobody can tell which of the two is wrong, and the volume may well work.
        Code.CATALOGUE_DIFFERS: Rule(
            _WARNING,
            "a volume is not what the catalogue says",
            "mount the image that the catalogue names, or correct the catalogue",
        ),
        # A warning: the server runs with what the catalogue said before.
        Code.CATALOGUE_UNREAD: Rule(
            _WARNING,
            "the catalogue can't be used any more",
            "correct the file that extensions.catalogue names, and reload",
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
        # A warning: the server will look itself, and the module may well fit.
        Code.MAGIC_UNKNOWN: Rule(
            _WARNING,
            "a module's magic block can't be read",
            "the server itself checks the module when it loads it",
        ),
        Code.MISSING_LIBRARY: Rule(
            _ERROR,
            "a library that a module needs is missing",
            "add the library to system in the extension image, or mount the volume that holds it",
        ),
        Code.SYMBOL_VERSION: Rule(
            _ERROR,
            "a library is too old for what needs it",
            "use the extension image for the distribution of the server's image",
        ),
        Code.UNDEFINED_SYMBOL: Rule(
            _ERROR,
            "a symbol that a module needs is nowhere",
            "use the extension image that was built for this server, or add the library that "
            "has the symbol",
        ),
        Code.SHADOWS_SERVER: Rule(
            _WARNING,
            "a library takes the place of one of the server's own",
            "take the library out of the extension image: the server's image has it",
        ),
        Code.LIBRARY_CONFLICT: Rule(
            _WARNING,
            "two volumes bring different libraries of one name",
            "build both images against the same libraries, or mount one of them only",
        ),
        Code.BAD_LIBRARY: Rule(_ERROR, "a third-party library can't be loaded", _REBUILD),
        Code.NO_MODULES: Rule(
            _INFO,
            "a directory of modules holds only other libraries",
            "list the directory in ld_library_path instead of dynamic_library_path",
        ),
        # A warning: packages bring modules for what is not mounted, which nobody loads.
        Code.UNUSED_MISSING_LIBRARY: Rule(
            _WARNING,
            "a library that nothing asked for so far needs is missing",
            "add the library to system in the extension image, or remove the file that needs it",
        ),
        Code.BREAKS_SERVER: Rule(
            _ERROR,
            "the server could not start with a library of the volume",
            "take the library out of the extension image: the server's image has it",
        ),
        Code.PRELOAD_NEEDED: Rule(
            _WARNING,
            "a library wants to be loaded at the start",
            "list the library in postgres.shared_preload_libraries, or, where metadata asks for"
            " it, the volume in extensions.volumes",
        ),
        Code.PRELOAD_MISSING: Rule(
            _ERROR,
            "a library that is to be loaded at the start is missing",
            "mount the volume that holds it, or take it out of the list that names it",
        ),
        Code.PRELOAD_LIBDIR: Rule(
            _WARNING,
            "a library that is to be loaded at the start is named with $libdir",
            "write the bare name in postgres.shared_preload_libraries",
        ),
        Code.PRELOAD_ORDER: Rule(
            _ERROR,
            "libraries are loaded in an order in which they can't work",
            "change the order in postgres.shared_preload_libraries",
        ),
        Code.OUTPUT_PLUGIN: Rule(
            _WARNING,
            "the server does not trust an output plugin",
            "add the library to output_plugin_libraries in postgres.parameters if all users "
            "with REPLICATION may use it",
        ),
        Code.LOCAL_PRELOAD: Rule(
            _ERROR,
            "each session would fail to load a library",
            "take it out of local_preload_libraries in postgres.parameters; "
            "session_preload_libraries finds libraries in volumes",
        ),
        Code.JIT: Rule(
            _WARNING,
            "just-in-time compilation can't come from a volume",
            "install it in the server's image, and remove it from the volume",
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
        Code.DATA_MISSING: Rule(
            _WARNING,
            "data or programs that a library needs at run time are missing",
            "add them to the extension image, or set the variable that names their place",
        ),
        Code.VANISHED: Rule(
            _ERROR,
            "a database uses what no volume provides",
            "mount the volume again; or start with --ignore-inventory and drop what used it",
        ),
        Code.UPDATE_AVAILABLE: Rule(
            _INFO,
            "a newer version of an installed extension is there",
            "rehearse the update, then run ALTER EXTENSION … UPDATE",
        ),
        Code.NO_UPDATE_PATH: Rule(
            _WARNING,
            "an installed version can't be updated to the one that is there",
            "mount an image whose scripts lead there from the installed version",
        ),
        # A warning: the owner of a database can set it, and must not be able to stop the server.
        Code.SESSION_LIBRARY: Rule(
            _WARNING,
            "sessions of a database or role load a library that is nowhere",
            "mount the volume that holds it, or RESET the parameter by ALTER DATABASE or ALTER"
            " ROLE",
        ),
        Code.REHEARSAL: Rule(
            _ERROR,
            "a trial of the start failed",
            "mend what the server says",
        ),
        # A warning: the loader has decided, and one of the two has a fault.
        Code.LOADER_DISAGREES: Rule(
            _WARNING,
            "the dynamic loader and its emulation disagree",
            "report it, with the volume: the loader's word counts",
        ),
        Code.LIBRARY_REPLACED: Rule(
            _WARNING,
            "a library was replaced while the server runs",
            "restart postgres: old and new sessions run different code until then",
        ),
    }
)

REFUSING: Final = frozenset(
    {
        Code.REQUIRED_ABSENT,
        Code.PRELOAD_MISSING,
        Code.PRELOAD_ORDER,
        Code.LOCAL_PRELOAD,
        Code.VANISHED,
        Code.REHEARSAL,
    }
)
"""The findings of the whole set that forbid the start under every policy.

The server, or every session of it, would fail on something that no quarantine takes away.
``VANISHED`` does so only with ``extensions.inventory: enforce``, and not in a recovery.
"""


def finding(code: Code, subject: str, message: str, hint: str = "") -> Finding:
    """Return the finding of this *code*: severity and hint are the table's.

    Another *hint* is for a case that has a better way out.
    """
    rule = RULES[code]
    return Finding(
        code=code.value,
        severity=rule.severity,
        subject=subject,
        message=message,
        hint=hint or rule.hint,
    )
