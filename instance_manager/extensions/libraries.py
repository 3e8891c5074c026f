"""Whether a shared object fits the server: machine, version, ABI.

Pure: facts in, findings out. It says before the start what the server would say, or misreport,
when it loads the file (``internal_load_library``, dfmgr.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from instance_manager.extensions.findings import Code, finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instance_manager.extensions.facts import LibraryFacts, ServerFacts
    from instance_manager.extensions.magic import MagicBlock
    from instance_manager.extensions.models import Finding

# pg_config_manual.h and fmgr.h: what every ordinary build of PostgreSQL 18 has.
_LENGTH: Final = 72
_ARGUMENT_LIMIT: Final = 100
_KEY_LIMIT: Final = 32
_NAME_LENGTH: Final = 64
_FLOAT8_BY_VALUE: Final = 1
_FIRST_WITH_WHOLE_MAJOR: Final = 1000


def judge_library(
    library: LibraryFacts, server: ServerFacts, *, is_searched: bool
) -> Iterator[Finding]:
    """Yield what is wrong with a file.

    Args:
        library: the file.
        server: what it must fit.
        is_searched: it lies where the server searches for modules, and not only where the
            dynamic loader does.
    """
    path = library.path
    # Else only the dynamic loader would meet it, for what needs a library of that name.
    if library.problem and is_searched and library.name.endswith(".so"):
        message = f"{path} is not a valid ELF shared object ({library.problem})"
        yield finding(Code.ELF_INVALID, path, f"{message}; loading it can crash the server")
    elif library.problem:
        message = f"{path} is not loadable ({library.problem})"
        yield finding(Code.BAD_LIBRARY, path, f"{message}; the dynamic loader would stop at it")
    if library.machine is not None and library.machine != server.machine:
        message = (
            f"{path} is built for {library.machine}, the server is {server.machine}"
            ' (the server would report a misleading "No such file or directory")'
        )
        yield finding(Code.MACHINE, path, message)
    if library.magic is not None and library.is_module:
        yield from _judge_block(path, library.magic.block, server)


def _judge_block(path: str, block: MagicBlock | None, server: ServerFacts) -> Iterator[Finding]:
    if block is None:
        message = f"could not read the magic block of {path} statically; deferred to the server"
        yield finding(Code.MAGIC_UNKNOWN, path, message)
    # In the order of incompatible_module_error (dfmgr.c): what stands behind the version may have
    # another layout in another major.
    elif block.major != server.major:
        version = _version(block)
        message = f"{path} was built for PostgreSQL {version}, the server is {server.major}"
        yield finding(Code.POSTGRES_MAJOR, path, message)
    elif block.abi != server.abi:
        message = f'{path}: ABI "{block.abi}" does not match the server\'s "{server.abi}"'
        yield finding(Code.ABI, path, message)
    else:
        for name, own, expected in _limits(block):
            if own != expected:
                message = f"{path}: {name} is {own}, the server's is {expected}"
                yield finding(Code.ABI, path, message)


def _version(block: MagicBlock) -> str:
    # PG_VERSION_NUM / 100: 906 is 9.6, and 1800 is 18.
    if block.version >= _FIRST_WITH_WHOLE_MAJOR:
        return str(block.major)
    return f"{block.version // 100}.{block.version % 100}"


def _limits(block: MagicBlock) -> tuple[tuple[str, int, int], ...]:
    return (
        ("the length of the magic block", block.length, _LENGTH),
        ("FUNC_MAX_ARGS", block.argument_limit, _ARGUMENT_LIMIT),
        ("INDEX_MAX_KEYS", block.key_limit, _KEY_LIMIT),
        ("NAMEDATALEN", block.name_length, _NAME_LENGTH),
        ("FLOAT8PASSBYVAL", block.float8_by_value, _FLOAT8_BY_VALUE),
    )
