"""The real server reads what we write: parameters, access rules, and its own files after us."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.configuration import hba
from instance_manager.configuration.parameters import (
    DIRECTIVES,
    OWNED,
    TAKEN_FROM_AUTO_CONF,
    Server,
    assemble,
)
from instance_manager.configuration.rendering import (
    HASH_PARAMETER,
    parse_line,
    render,
    sha256_of,
)
from instance_manager.configuration.writing import (
    ensure_include,
    inherited_rules,
    take_out_auto_entries,
    write_atomically,
)
from instance_manager.extensions.models import Composed
from instance_manager.settings import PostgresSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from instance_manager.postgres.embedded import Demonstration

MAJOR = 18
DEADLINE_SECONDS = 60
TESTER = "tester"
# Whoever may run a server when root runs the tests: any account will do.
UNPRIVILEGED = 65534
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
ODD_LINES = [
    "a.plain = on",
    "a.number -1.5e3 # comment",
    "  a.unit=10min",
    "\ta.tab\t=\t'x'\r",
    "a.close'x'",
    "a.path = x/y:z-1.2",
    "a.hexadecimal = 0x1F",
    "a.fraction = .5",
    "a.empty = ''",
    "a.doubled = 'it''s'",
    r"a.escaped = 'it\'s'",
    r"a.backslash = 'x\\y'",
    r"a.letters = '\b\f\n\r\t\q'",
    r"a.octal = '\101\60\0012'",
    "a.hash = 'x # y'",
    "A.Upper = x",
]


@dataclass(frozen=True)
class Running:
    """A server that runs on a configuration of ours, and the account that it runs as."""

    programs: Path
    root: Path
    uid: int
    gid: int

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.root / "data"

    @property
    def ours(self) -> Path:
        """Our directory within it."""
        return self.data / "instance-manager"

    @property
    def account(self) -> str:
        """The account's name."""
        return pwd.getpwuid(self.uid).pw_name

    @contextlib.contextmanager
    def identity(self) -> Iterator[None]:
        """Act as the account: its files, its logins."""
        if os.geteuid() != 0:
            yield
            return
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)

    def command(self, program: str, *arguments: str | Path) -> dict[str, Any]:
        """Return how to run a program of the server's as the account."""
        argv = [str(self.programs / program), *map(str, arguments)]
        ids = (
            {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        return {"args": argv, "env": ENVIRONMENT, "cwd": "/", **ids}

    def connect(self, user: str = TESTER) -> psycopg.Connection[Any]:
        """Log in over the unix socket as the account."""
        with self.identity():
            return psycopg.connect(
                host=str(self.root), port=5432, user=user, dbname="postgres", autocommit=True
            )

    def query(self, text: str, *values: object) -> list[Any]:
        """Return the rows of a query."""
        with self.connect() as connection:
            return connection.execute(text.encode(), values or None).fetchall()

    def configure(self, parameters: Mapping[str, str]) -> str:
        """Write our file and return its text."""
        text = render(parameters)
        self.write("postgresql.conf", text)
        return text

    def write(self, name: str, text: str) -> None:
        """Write one file of ours."""
        with self.identity():
            write_atomically(self.ours / name, text)

    def write_access(self, superuser: str, lines: Sequence[str], inherited: str = "") -> None:
        """Write both access files, in which the tester can always log in."""
        mine = (f"local all {TESTER} trust", *lines) if lines or not inherited else ()
        rules = hba.render_hba(superuser=superuser, major=MAJOR, lines=mine, inherited=inherited)
        names = hba.render_ident(superuser=superuser, system_user=self.account, major=MAJOR)
        self.write("pg_hba.conf", rules)
        self.write("pg_ident.conf", names)

    def reload(self) -> None:
        """Reload and wait until a new session sees it."""
        before = self.query("SELECT pg_conf_load_time(), pg_reload_conf()")[0][0]
        wait_until(lambda: self.query("SELECT pg_conf_load_time()")[0][0] > before)

    def parameters(self, **own: str) -> dict[str, str]:
        """Return what this server is told, with parameters of a user's."""
        composed = Composed(
            extension_control_path="$system:/extensions/it's/share",
            dynamic_library_path="$libdir:/extensions/it's/lib",
            shared_preload_libraries="pg_stat_statements",
            ld_library_path="",
            path="",
            env={},
        )
        mine = PostgresSettings.model_validate(
            {"socket_directory": str(self.root), "listen_addresses": "", "parameters": own}
        )
        server = Server(
            major=MAJOR,
            hba_file=self.ours / "pg_hba.conf",
            ident_file=self.ours / "pg_ident.conf",
            log_directory=self.root / "log",
            instance="pg-0",
        )
        return assemble(mine, composed, {}, server)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the deadline has passed"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def running(server: Demonstration) -> Iterator[Running]:
    """Start a server on a configuration of ours and stop it at the end."""
    root = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    uid, gid = (UNPRIVILEGED,) * 2 if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(root, uid, gid)
    try:
        mine = Running(server.bin_directory, root, uid, gid)
        with started(mine):
            yield mine
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def started(server: Running) -> Iterator[None]:
    """Make a cluster, write its configuration, and run it."""
    subprocess.run(
        **server.command(
            "initdb", "-D", server.data, "-U", TESTER, "-A", "trust", "-N", "--locale=C.UTF-8"
        ),
        check=True,
        capture_output=True,
    )
    with server.identity():
        server.ours.mkdir(mode=0o700)
        with (server.data / "postgresql.conf").open("a") as file:
            file.write("work_mem = '1MB'\nport = 1")
        ensure_include(server.data)
    server.configure(server.parameters())
    server.write_access("nobody at all", ["# nothing"])
    with (
        Path(server.root / "out").open("wb") as out,
        subprocess.Popen(
            **server.command("postgres", "-D", server.data), stdout=out, stderr=out
        ) as process,
    ):
        try:
            wait_until(lambda: accepts(server, process))
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(DEADLINE_SECONDS)


def accepts(server: Running, process: subprocess.Popen[bytes]) -> bool:
    """Whether the server takes logins; a dead one fails the test."""
    assert process.poll() is None, (server.root / "out").read_text()
    with contextlib.suppress(psycopg.OperationalError):
        server.connect().close()
        return True
    return False


def test_the_server_has_every_parameter_as_it_was_told(running: Running) -> None:
    """Also over what the user's own file says before our line."""
    told = running.parameters(work_mem="7MB")
    text = running.configure(told)
    running.reload()

    shown = dict(running.query("SELECT name, current_setting(name) FROM pg_settings"))
    for name, value in told.items():
        assert shown[name] == value, name
    (loaded,) = running.query(f"SHOW {HASH_PARAMETER}")[0]
    assert loaded == sha256_of(text[: text.rindex(HASH_PARAMETER)])


def test_the_server_finds_no_fault_in_our_file(running: Running) -> None:
    """Nothing in it is refused, and nothing in any file is wrong."""
    running.configure(running.parameters())

    assert running.query("SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL") == []


def test_the_server_program_reads_the_same_from_the_directory(running: Running) -> None:
    """What `postgres -C` says of a file that nobody has loaded yet."""
    value = "it's \\ a 'test'\twith\neverything \x01 é"
    told = running.parameters(**{"application_name": "x y", "test.value": value, "port.x": "1"})
    running.configure(told)

    for name in ("test.value", "hba_file", "log_filename", "extension_control_path", "port"):
        done = subprocess.run(
            **running.command("postgres", "-C", name, "-D", running.data),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.removesuffix("\n") == told[name]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,8}\.[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(
            lambda name: not name.startswith("instance_manager.")
        ),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
        | st.text("'\\\n\r\t\b\f\v\x01\x7f #=an0123é\u2028", max_size=20),
        max_size=8,
    )
)
def test_the_server_reads_what_was_rendered(running: Running, values: dict[str, str]) -> None:
    """Every value arrives as it was, whatever it holds."""
    running.configure(running.parameters() | values)

    rows = running.query(
        "SELECT name, setting FROM pg_file_settings WHERE sourcefile = %s",
        str(running.ours / "postgresql.conf"),
    )
    read = dict(rows)
    assert {name: read[name] for name in values} == values
    assert len(rows) == len(running.parameters() | values) + 1


def test_lines_of_others_are_read_as_the_server_reads_them(running: Running) -> None:
    """Our reader and the server agree on every form of a line."""
    running.write("postgresql.conf", "\n".join(ODD_LINES) + "\n")

    rows = running.query(
        "SELECT name, setting FROM pg_file_settings WHERE sourcefile = %s ORDER BY seqno",
        str(running.ours / "postgresql.conf"),
    )
    running.configure(running.parameters())
    parsed = [parse_line(line) for line in ODD_LINES]
    assert rows == parsed


def test_the_owned_names_are_names_of_the_server(running: Running) -> None:
    """No slip of the pen in the table."""
    known = {name for (name,) in running.query("SELECT name FROM pg_settings")}

    assert set(OWNED) - DIRECTIVES <= known


def test_the_log_is_json_where_the_manager_reads_it(running: Running) -> None:
    """One file, one record a line, whatever the day."""
    with running.connect() as connection:
        connection.execute("DO $$ BEGIN RAISE LOG 'hello, log'; END $$")
    path = running.root / "log" / "postgres.json"

    def records() -> list[dict[str, Any]]:
        # The last line may be in the middle of being written; a value may hold other separators.
        whole, _, _ = path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.split("\n") if line]

    wait_until(lambda: any(record["message"] == "hello, log" for record in records()))
    assert {record["error_severity"] for record in records()} <= {"LOG", "FATAL", "ERROR"}


@pytest.mark.parametrize(
    "name",
    ["postgres", "all", "+tester", "/slash.*", "a b", "a,b", 'we"ird', "#x", "bäcker", "@f"],
)
def test_the_manager_logs_in_as_a_superuser_of_any_name(running: Running, name: str) -> None:
    """Its own line lets it in as that role, and catches no other role."""
    with running.connect() as connection:
        quoted = psycopg.sql.Identifier(name).as_string(connection)
        connection.execute(f"CREATE ROLE {quoted} SUPERUSER LOGIN".encode())
        connection.execute(b"DROP ROLE IF EXISTS victim")
        connection.execute(b"CREATE ROLE victim LOGIN")
    running.write_access(name, ["local all victim trust"])
    running.reload()

    assert running.query("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL") == []
    assert running.query("SELECT error FROM pg_ident_file_mappings WHERE error IS NOT NULL") == []
    with running.connect(name) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (name,)
    running.connect("victim").close()


def test_nobody_else_logs_in_without_a_password(running: Running) -> None:
    """A role with another name than the account's has no way in over the socket."""
    with running.connect() as connection:
        connection.execute(b"DROP ROLE IF EXISTS stranger")
        connection.execute(b"CREATE ROLE stranger LOGIN")
    running.write_access("postgres", ["# nothing"])
    running.reload()

    with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
        running.connect("stranger")


@pytest.mark.parametrize("major", [15, 18])
def test_the_directorys_own_rules_count_where_the_user_has_none(
    running: Running, major: int
) -> None:
    """By inclusion where the server knows it, by a copy where it does not."""
    own = running.data / "pg_hba.conf"
    with running.identity():
        write_atomically(own, f"local all {TESTER} trust\nlocal all guest trust \\\n")
        inherited = inherited_rules(own, major)
    with running.connect() as connection:
        connection.execute(b"DROP ROLE IF EXISTS guest")
        connection.execute(b"CREATE ROLE guest LOGIN")
    running.write_access("postgres", [], inherited)
    running.reload()

    assert running.query("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL") == []
    running.connect("guest").close()


def test_what_alter_system_wrote_over_us_is_taken_out(running: Running) -> None:
    """The server's own writer of that file is understood, and the rest of it stays."""
    running.configure(running.parameters() | {"allow_alter_system": "on"})
    running.reload()
    with running.connect() as connection:
        connection.execute(b"ALTER SYSTEM SET work_mem = '9MB'")
        connection.execute(b"ALTER SYSTEM SET dynamic_library_path = '$libdir:/it''s \\ odd'")
        connection.execute(b"ALTER SYSTEM SET port = 7777")
    running.configure(running.parameters())

    with running.identity():
        taken = take_out_auto_entries(running.data, TAKEN_FROM_AUTO_CONF, "1")
    running.reload()

    assert {entry.name: entry.value for entry in taken} == {
        "dynamic_library_path": "$libdir:/it's \\ odd",
        "port": "7777",
    }
    told = running.parameters()
    assert running.query("SHOW dynamic_library_path")[0][0] == told["dynamic_library_path"]
    assert running.query("SHOW work_mem")[0][0] == "9MB"
    with running.identity():
        take_out_auto_entries(running.data, {"work_mem"}, "2")
    running.reload()
