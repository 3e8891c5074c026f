"""What the findings say that the server would say, asked of a real server without the manager."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from instance_manager.extensions.library_search import split_list
from instance_manager.extensions.scan import Examination, complete, examine
from instance_manager.postgres import account, binaries
from instance_manager.postgres.embedded import Demonstration
from instance_manager.settings.models import Settings
from tests.support.manager import ACCOUNT, Manager, until

Connection = psycopg.Connection[tuple[Any, ...]]
FUNCTION = "CREATE FUNCTION nothing() RETURNS text AS 'MODULE_PATHNAME', 'nosuch' LANGUAGE C;"


class Bench:
    """One cluster, volumes made for it, what we find in them, and what the server says."""

    def __init__(self, place: Path, server: Demonstration) -> None:
        self.place = place
        self.server = server
        self.root = place / "extensions"
        self.root.mkdir()
        self.data = place / "data"
        version = binaries.parse_version(self._run("postgres", "--version").stdout)
        self.facts = binaries.server_facts(binaries.Binaries(server.bin_directory), version)
        initdb = ["-D", str(self.data), "-U", "postgres", "-A", "trust", "--no-sync"]
        assert self._run("initdb", *initdb, "-E", "UTF8", "--locale=C").returncode == 0

    @property
    def libraries(self) -> Path:
        """The server's own libraries."""
        return Path(self.facts.library_directory)

    def volume(self, name: str, files: Mapping[str, str | Path]) -> None:
        """Make a volume; a path is the file whose content to take."""
        for relative, content in files.items():
            target = self.root / name / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            data = content.read_bytes() if isinstance(content, Path) else content.encode()
            target.write_bytes(data)

    def extension(self, name: str, *lines: str, module: str = "isn", **scripts: str) -> None:
        """Make a volume of one extension, and its module of another one's code.

        *scripts* are named by their versions: ``v1``, ``v1_2``.
        """
        control = ["default_version = '1'", f"module_pathname = '$libdir/{name}'", *lines]
        files: dict[str, str | Path] = {
            f"share/extension/{name}.control": "\n".join(control),
            f"lib/{name}.so": self.libraries / f"{module}.so",
        }
        for version, text in ({"v1": ""} | scripts).items():
            between = version[1:].replace("_", "--")
            files[f"share/extension/{name}--{between}.sql"] = text
        self.volume(name, files)

    def examine(self, preload: tuple[str, ...] = (), **parameters: str) -> Examination:
        """Return what the preflight and the look at the contents find."""
        settings = Settings.model_validate(
            {
                "postgres": {"parameters": parameters, "shared_preload_libraries": preload},
                "extensions": {"root": str(self.root)},
            }
        )
        examination = examine(settings, self.facts, base_path="", base_ld_library_path=None)
        return complete(examination, self.facts)

    def codes(self, preload: tuple[str, ...] = (), **parameters: str) -> set[str]:
        """Return the codes of what was found, without those of a directory that is no mount."""
        found = self.examine(preload, **parameters).report.all_findings()
        return {each.code for each in found} - {"EXT001", "EXT003"}

    @contextlib.contextmanager
    def postgres(self, **parameters: str) -> Iterator[Callable[[], Connection]]:
        """Run the server with what is composed of the volumes; yield what makes a session."""
        composed = self.examine().report.composed
        given = {
            "extension_control_path": composed.extension_control_path,
            "dynamic_library_path": composed.dynamic_library_path,
            "listen_addresses": "",
            "unix_socket_directories": str(self.place),
            "fsync": "off",
            **parameters,
        }
        command = [str(self.server.bin_directory / "postgres"), "-D", str(self.data)]
        for name, value in given.items():
            command += ["-c", f"{name}={value}"]
        log = self.place / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stderr=output, **_run_as())
        try:
            until(lambda: self._is_up(process, log), "the server accepts connections")
            yield self._connect
        finally:
            process.terminate()
            process.wait(60)

    def refusal(self, **parameters: str) -> str:
        """Return what the server says that does not start."""
        with pytest.raises(AssertionError) as caught, self.postgres(**parameters):
            pass
        return str(caught.value)

    def connecting(self, **parameters: str) -> str:
        """Return what the server says to a session with these parameters; empty if it takes it."""
        options = [f"-c {name}={_escaped(value)}" for name, value in parameters.items()]
        address = f"host={self.place} user=postgres dbname=postgres"
        try:
            psycopg.connect(address, options=" ".join(options)).close()
        except psycopg.OperationalError as error:
            return str(error)
        return ""

    def _is_up(self, process: subprocess.Popen[Any], log: Path) -> bool:
        said = log.read_text()
        assert process.poll() is None, said
        return "ready to accept connections" in said

    def _connect(self) -> Connection:
        address = f"host={self.place} user=postgres dbname=postgres"
        return psycopg.connect(address, autocommit=True)

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.server.bin_directory / program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, **_run_as())


def _escaped(value: str) -> str:
    """Write a value as the server splits the options of a connection (``pg_split_opts``)."""
    return "".join(f"\\{each}" if each.isspace() or each == "\\" else each for each in value)


def _run_as() -> Mapping[str, Any]:
    """Return what makes a child the account of postgres: root can't start a server."""
    if os.geteuid() != 0:
        return {}
    owner = account.find(ACCOUNT)
    return {"user": owner.uid, "group": owner.gid, "extra_groups": []}


def _told(session: Connection, statement: str) -> str:
    """Run a statement that fails, and return the error with detail and hint."""
    with pytest.raises(psycopg.Error) as caught:
        session.execute(statement.encode())
    said = caught.value.diag
    parts = (said.message_primary, said.message_detail, said.message_hint)
    return "\n".join(part for part in parts if part)


@pytest.fixture(scope="module")
def cluster(server: Demonstration) -> Iterator[Bench]:
    """Yield a cluster that all tests of this file share."""
    directory = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    directory.chmod(0o777)
    yield Bench(directory, server)
    shutil.rmtree(directory)


@pytest.fixture
def bench(cluster: Bench) -> Iterator[Bench]:
    """Yield the cluster without a volume."""
    yield cluster
    shutil.rmtree(cluster.root)
    cluster.root.mkdir()


def test_a_missing_preload_library_ends_the_start(bench: Bench) -> None:
    """EXT051, with the words of the message."""
    assert bench.codes(("nosuchlib",)) == {"EXT051"}
    assert 'FATAL:  could not access file "nosuchlib": No such file or directory' in bench.refusal(
        shared_preload_libraries="nosuchlib"
    )


def test_a_missing_session_library_ends_every_connection(bench: Bench) -> None:
    """EXT051 again: the server itself starts."""
    assert bench.codes(session_preload_libraries="nosuchlib") == {"EXT051"}
    with (
        bench.postgres(session_preload_libraries="nosuchlib") as connect,
        pytest.raises(psycopg.OperationalError) as caught,
    ):
        connect()

    expected = 'FATAL:  could not access file "nosuchlib": No such file or directory'
    assert expected in str(caught.value)


@pytest.mark.parametrize("parameter", ["shared_preload_libraries", "session_preload_libraries"])
def test_a_prefix_keeps_the_server_from_searching_volumes(bench: Bench, parameter: str) -> None:
    """EXT052 where the manager leaves it out, EXT051 where it does not touch the list."""
    bench.extension("mod")
    expected = 'FATAL:  could not access file "$libdir/mod": No such file or directory'

    if parameter == "shared_preload_libraries":
        examination = bench.examine(("$libdir/mod",))
        assert "EXT052" in {each.code for each in examination.report.findings}
        assert expected in bench.refusal(shared_preload_libraries="$libdir/mod")
        composed = examination.report.composed.shared_preload_libraries
        with bench.postgres(shared_preload_libraries=composed) as connect, connect():
            pass
    else:
        assert bench.codes(session_preload_libraries="$libdir/mod") == {"EXT051"}
        with (
            bench.postgres(session_preload_libraries="$libdir/mod") as connect,
            pytest.raises(psycopg.OperationalError) as caught,
        ):
            connect()
        assert expected in str(caught.value)


NAMES = ["mod", "mod.so", "isn", "$libdir/isn", "{root}/mod/lib/mod", "{root}/mod/lib/mod.so"]
MISSING = ["$libdir/mod", "isn.so.1", "$libdir/plugins/isn", "{root}/mod/lib", "$other/isn", "."]


@pytest.mark.parametrize("name", [*NAMES, *MISSING])
def test_the_search_for_a_library_agrees_with_the_server(bench: Bench, name: str) -> None:
    """Every form of a name: what we call missing, the server does not find."""
    bench.extension("mod")
    library = name.format(root=bench.root)
    is_missing = "EXT051" in bench.codes(session_preload_libraries=library)

    with bench.postgres() as connect, connect() as session:
        if is_missing:
            assert _told(session, f"LOAD '{library}'")
        else:
            session.execute(f"LOAD '{library}'".encode())
    assert is_missing == (name in MISSING)


LISTS = [
    *("", "  ", "x", " x , y", "x y", '"x, ""y"""', '"x" , y', "isn, x", "isn,isn ,x y ", "isn"),
    *("x,", ",x", "x,,y", '"x', '"x" y', "isn, isn,", '"isn","x"', "x\t,y", '"" , x'),
]


def test_a_list_of_libraries_is_read_as_the_server_reads_it(bench: Bench) -> None:
    """It names the first that it misses; what it can't read as a list it does not use."""
    with bench.postgres() as connect, connect():
        for text in LISTS:
            names = split_list(text) or ()
            missing = next((name for name in names if name != "isn"), None)
            told = bench.connecting(session_preload_libraries=text)

            expected = f'could not access file "{missing}": No such file or directory'
            assert (told == "") if missing is None else (expected in told), text


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("mod", 'could not access file "$libdir/plugins/mod": No such file or directory'),
        ("$libdir/isn", 'access to library "$libdir/isn" is not allowed'),
    ],
)
def test_a_local_library_in_a_volume_ends_every_connection(
    bench: Bench, entry: str, expected: str
) -> None:
    """EXT055, with the words of the message."""
    bench.extension("mod")
    assert bench.codes(local_preload_libraries=entry) == {"EXT055"}
    with (
        bench.postgres(local_preload_libraries=entry) as connect,
        pytest.raises(psycopg.OperationalError) as caught,
    ):
        connect()

    assert f"FATAL:  {expected}" in str(caught.value)


def test_a_script_that_loads_from_the_servers_own_directory_fails(bench: Bench) -> None:
    """EXT019: creating works, and the update does not; LOAD without the prefix does."""
    bench.extension(
        "mod", v1="LOAD 'mod';", v1_2="LOAD '$libdir/mod';", v1_3="LOAD 'MODULE_PATHNAME'"
    )
    expected = 'could not access file "$libdir/mod": No such file or directory'

    assert bench.codes() == {"EXT019"}
    with bench.postgres() as connect, connect() as session:
        session.execute("CREATE EXTENSION mod")
        try:
            assert _told(session, "ALTER EXTENSION mod UPDATE TO '2'") == expected
            assert _told(session, "ALTER EXTENSION mod UPDATE TO '3'") == expected
        finally:
            session.execute("DROP EXTENSION mod")


def test_a_library_below_the_servers_own_directory_is_not_searched(bench: Bench) -> None:
    """EXT020, in the control file and in a script; the message keeps the macro."""
    nested = FUNCTION.replace("MODULE_PATHNAME", "$libdir/sub/other")
    bench.extension("mod", "module_pathname = '$libdir/sub/mod'", v1=FUNCTION)
    bench.extension("other", v1=nested)
    bench.volume("mod", {"lib/sub/mod.so": bench.libraries / "isn.so"})

    assert bench.codes() == {"EXT020"}
    with bench.postgres() as connect, connect() as session:
        for name in ("mod", "other"):
            assert _told(session, f"CREATE EXTENSION {name}") == (
                f'could not access file "$libdir/sub/{name}": No such file or directory'
            )


def test_a_required_extension_that_is_nowhere_keeps_one_from_being_created(bench: Bench) -> None:
    """EXT015."""
    bench.extension("mod", "requires = 'gone'")

    assert bench.codes() == {"EXT015"}
    with bench.postgres() as connect, connect() as session:
        assert _told(session, "CREATE EXTENSION mod").startswith(
            'required extension "gone" is not installed'
        )
        assert 'extension "gone" is not available' in _told(
            session, "CREATE EXTENSION mod CASCADE"
        )


def test_the_servers_own_extension_hides_that_of_a_volume(bench: Bench) -> None:
    """EXT017: its version is the one that is offered."""
    bench.extension("isn", "default_version = '99'", v99="")

    assert bench.codes() == {"EXT017"}
    with bench.postgres() as connect, connect() as session:
        rows = session.execute(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'isn'"
        ).fetchall()
    assert len(rows) == 1
    assert rows != [("99",)]


def test_a_library_of_an_earlier_volume_is_taken(bench: Bench) -> None:
    """EXT022: the server's own message names the file that the finding names."""
    bench.extension("zebra", v1=FUNCTION)
    bench.volume("ant", {"lib/zebra.so": bench.libraries / "isn.so"})
    (found,) = (each for each in bench.examine().report.all_findings() if each.code == "EXT022")
    path = f"{bench.root}/ant/lib/zebra.so"

    assert path in found.message
    with bench.postgres() as connect, connect() as session:
        assert _told(session, "CREATE EXTENSION zebra") == (
            f'could not find function "nosuch" in file "{path}"'
        )


def test_a_library_that_wants_to_be_preloaded_says_so(bench: Bench) -> None:
    """EXT050, read from the library's text; and it is satisfied by listing it."""
    bench.extension(
        "stats",
        module="pg_stat_statements",
        v1="CREATE FUNCTION reset() RETURNS void AS 'MODULE_PATHNAME',"
        " 'pg_stat_statements_reset' LANGUAGE C",
    )

    assert bench.codes() == {"EXT050"}
    assert bench.codes(("stats",)) == set()
    with bench.postgres() as connect, connect() as session:
        session.execute("CREATE EXTENSION stats")
        try:
            assert _told(session, "SELECT reset()") == (
                'pg_stat_statements must be loaded via "shared_preload_libraries"'
            )
        finally:
            session.execute("DROP EXTENSION stats")


def test_an_output_plugin_of_a_volume_is_not_trusted(bench: Bench) -> None:
    """EXT054: for the superuser too, until it is listed."""
    bench.volume("plugin", {"lib/decoder.so": bench.libraries / "test_decoding.so"})
    create = "SELECT pg_create_logical_replication_slot('slot', 'decoder', true)"
    assert bench.facts.number >= 180006

    assert bench.codes() == {"EXT054"}
    assert bench.codes(output_plugin_libraries="pgoutput, decoder") == set()
    with bench.postgres(wal_level="logical") as connect, connect() as session:
        said = _told(session, create)
    assert said.startswith('library "decoder" may not be used as an output plugin')
    trusted = {"wal_level": "logical", "output_plugin_libraries": "pgoutput, decoder"}
    with bench.postgres(**trusted) as connect, connect() as session:
        session.execute(create)


def test_just_in_time_compilation_is_not_found_in_a_volume(bench: Bench) -> None:
    """EXT056: without a word in the log."""
    bench.volume("jit", {"lib/llvmjit.so": bench.libraries / "isn.so"})

    with bench.postgres(jit="on") as connect, connect() as session:
        assert session.execute("SELECT pg_jit_available()").fetchone() == (False,)


def test_the_manager_refuses_what_the_server_would_fail_on(manager: Manager) -> None:
    """Exit code 3 and the server's words, before a data directory is made."""
    manager.settings["failure"] = "exit"
    manager.settings["postgres"]["shared_preload_libraries"] = ["nosuchlib"]
    manager.settings["postgres"]["parameters"] = {"local_preload_libraries": "vector"}
    manager.start()

    assert manager.wait() == 3
    said = manager.logged()
    assert 'EXT051 shared_preload_libraries lists \\"nosuchlib\\", not found' in said
    assert 'EXT055 local_preload_libraries lists \\"vector\\"' in said
    assert not (manager.data / "PG_VERSION").exists()


def test_what_scripts_hold_is_told_after_the_start_and_by_check(
    manager: Manager, workspace: Path
) -> None:
    """It is in the report and once in the log; the start does not wait for it."""
    root = workspace / "extensions"
    files = {
        "share/extension/mod.control": "default_version = '1'",
        "share/extension/mod--1.sql": "LOAD '$libdir/mod'",
    }
    for name, content in files.items():
        path = root / "mod" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    manager.settings["extensions"]["root"] = str(root)

    checked = manager.run("check")
    assert checked.returncode == 0
    assert "EXT019 warning" in checked.stdout
    manager.trust().start().until_ready()

    def seen() -> bool:
        _, report = manager.ask("GET", "/v1/extensions")
        found = {each["code"] for one in report["volumes"] for each in one["findings"]}
        return "EXT019" in found

    until(seen, "the scripts were read")
    # Only then all lines are written.
    assert manager.end() == 0
    assert manager.logged().count('"EXT019"') == 1
