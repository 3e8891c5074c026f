"""Every way in which a volume is known to break a server: told before, and what the server says.

Each row is a volume as it came out of a laboratory. A manager starts with all of them at once:
what can't work is left out under its own cause, and the server runs with the rest. A plain server
is given the same files: its words are the reason for each row.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from instance_manager.extensions.linkable import read_linkable
from instance_manager.postgres.embedded import Demonstration
from tests.support import modules
from tests.support.manager import Manager, until
from tests.support.modules import Volumes
from tests.support.plain_server import PlainServer, run_as
from tests.support.volumes import tmpfs

PROJECT = Path(__file__).parents[2]
Report = dict[str, Any]


class Row(NamedTuple):
    """A situation: what makes it, the code and the words of its cause, and the server's own.

    *make* is given a volume's name, and *says* is what a server without the manager says: with
    ``@`` for the path of the volume.
    """

    make: Callable[[Volumes, str], object]
    code: str
    cause: str
    says: str


def module(edit: Callable[[bytes], bytes]) -> Callable[[Volumes, str], object]:
    """Make a volume whose module is one of pgvector's code, edited."""
    return lambda volumes, name: volumes.module(name, edit(volumes.vector()))


def unreadable(volumes: Volumes, name: str) -> None:
    # Where root runs the tests, the file is root's and the server is nobody's.
    volumes.module(name, volumes.vector()).chmod(0o600 if os.geteuid() == 0 else 0)


def no_module(volumes: Volumes, name: str) -> None:
    volumes.module(name, (volumes.libraries / "libpgtypes.so.3").read_bytes())


MODULES = {
    "lacking": Row(
        module(lambda vector: modules.without_library(vector, "gone.so")),
        "EXT040",
        "lib/lacking.so needs gone.so",
        'FATAL:  could not load library "@/lib/lacking.so": gone.so: cannot open shared object'
        " file: No such file or directory",
    ),
    "pg17": Row(
        module(modules.for_postgres_17),
        "EXT033",
        "lib/pg17.so was built for PostgreSQL 17, the server is 18",
        'FATAL:  incompatible library "@/lib/pg17.so": version mismatch',
    ),
    "machine": Row(
        module(modules.for_another_machine),
        "EXT031",
        "lib/machine.so is built for ",
        'FATAL:  could not load library "@/lib/machine.so": @/lib/machine.so: cannot open shared'
        " object file: No such file or directory",
    ),
    "unreadable": Row(
        unreadable,
        "EXT006",
        "lib/unreadable.so is not readable by the server's user",
        'FATAL:  could not load library "@/lib/unreadable.so": @/lib/unreadable.so: cannot open'
        " shared object file: Permission denied",
    ),
    "nomodule": Row(
        no_module,
        "EXT032",
        "lib/nomodule.so is not a PostgreSQL module (no magic block)",
        'FATAL:  incompatible library "@/lib/nomodule.so": missing magic block',
    ),
    "symbol": Row(
        module(lambda vector: modules.renamed(vector, "errstart_cold", "no_such_thing")),
        "EXT042",
        "lib/symbol.so: undefined symbol no_such_thing",
        'FATAL:  could not load library "@/lib/symbol.so": @/lib/symbol.so: undefined symbol:'
        " no_such_thing",
    ),
    "glibc": Row(
        module(lambda vector: modules.renamed(vector, "GLIBC_2.14", "GLIBC_9.99")),
        "EXT041",
        "lib/glibc.so needs libc.so.6(GLIBC_9.99)",
        "version `GLIBC_9.99' not found (required by @/lib/glibc.so)",
    ),
}
"""Modules that a server can't load: it says so where it is told to load them at its start."""


def control_key(volumes: Volumes, name: str) -> None:
    volumes.control(name, "magic_sauce = 1\n")


def truncated(volumes: Volumes, name: str) -> None:
    content = volumes.vector()
    volumes.module(name, content[: len(content) // 2])


def own_copy(volumes: Volumes, library: str) -> Path:
    """Return the path of the host's library that the server loads."""
    done = subprocess.run(
        [volumes.libraries.parent / "bin" / "postgres"],
        env={"LD_TRACE_LOADED_OBJECTS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = next(line.split() for line in done.stdout.splitlines() if library in line)
    return Path(words[2])


def wanted_version(volumes: Volumes, library: str) -> str:
    """Return a version that the server wants of a library."""
    needs = read_linkable((volumes.libraries.parent / "bin" / "postgres").read_bytes())
    return next(version for file, version, _ in needs.version_needs if file == library)


def system(volumes: Volumes, name: str, library: str, content: bytes) -> None:
    """Make a volume of one library that the loader is to search in."""
    for path, text in (
        (f"system/{library}", content),
        ("share/instance-manager/extension.json", b'{"ld_library_path": ["system"]}'),
    ):
        file = volumes.root / name / path
        file.parent.mkdir(parents=True)
        file.write_bytes(text)


def older(library: str) -> Callable[[Volumes, str], None]:
    """Put the host's own library there, but for a version that the server wants."""

    def make(volumes: Volumes, name: str) -> None:
        version = wanted_version(volumes, library)
        content = own_copy(volumes, library).read_bytes()
        system(volumes, name, library, modules.renamed(content, version, "NO_SUCH"))

    return make


def zlib(edit: Callable[[bytes], bytes]) -> Callable[[Volumes, str], None]:
    """Put the host's zlib there, edited."""

    def make(volumes: Volumes, name: str) -> None:
        system(volumes, name, "libz.so.1", edit(own_copy(volumes, "libz.so.1").read_bytes()))

    return make


SHADOWS = {
    "s1older": Row(older("libm.so.6"), "EXT048", "libm.so.6", "@/system/libm.so.6: version `"),
    "s2libc": Row(older("libc.so.6"), "EXT048", "libc.so.6", "@/system/libc.so.6: version `"),
    "s3text": Row(
        zlib(lambda _: b"no library"),
        "EXT045",
        "system/libz.so.1 is not loadable",
        "error while loading shared libraries: @/system/libz.so.1: file too short",
    ),
    "s4cut": Row(
        zlib(lambda content: content[: len(content) // 2]), "EXT045", "system/libz.so.1 is not", ""
    ),
}
"""Libraries that take the place of the server's own: it ends before it can say anything."""

OTHERS = {
    "key": Row(control_key, "EXT012", 'unrecognized parameter "magic_sauce"', ""),
    "truncated": Row(truncated, "EXT030", "lib/truncated.so is not a valid ELF", ""),
    "foreign": Row(zlib(modules.for_another_machine), "EXT031", "system/libz.so.1 is built", ""),
}
QUARANTINED = MODULES | SHADOWS | OTHERS
IS_ROOT = os.geteuid() == 0


class Lab:
    """Volumes of all kinds, a manager that was started with them, and a plain server."""

    def __init__(self, place: Path, server: Demonstration, ends: contextlib.ExitStack) -> None:
        self.manager = Manager(place, server)
        ends.callback(self.manager.clean_up)
        self.volumes = Volumes(self.manager)
        self.root = self.volumes.root
        self.volumes.pgvector()
        for name, row in QUARANTINED.items():
            row.make(self.volumes, name)
        if IS_ROOT:
            mount = ends.enter_context(tmpfs(self.root / "noexec", 1 << 20))
            for directory in ("lib", "share/extension"):
                (mount.path / directory).mkdir(parents=True)
            (mount.path / "lib" / "noexec.so").write_bytes(self.volumes.vector())
            mount.remount("noexec")
        # After all others: what is found first is what the loader takes.
        zlib(bytes)(self.volumes, "zlib")
        for name, version in (("twin1", "1.0"), ("twin2", "2.0")):
            share = self.root / name / "share" / "extension"
            share.mkdir(parents=True)
            (share / "twin.control").write_text(f"default_version = '{version}'")
            (share / f"twin--{version}.sql").touch()
        plain = place / "plain"
        plain.mkdir(mode=0o777)
        plain.chmod(0o777)
        self.plain = PlainServer(server, plain)
        self.manager.trust().start().until_ready()
        until(lambda: "symbol" in self.quarantined(), "the loader was asked about all")

    def report(self) -> Report:
        """Return what the manager says of the volumes."""
        report = self.manager.ask("GET", "/v1/extensions")[1]
        assert isinstance(report, dict)
        return report

    def quarantined(self) -> list[str]:
        """Return the names of the volumes that are left out."""
        volumes = self.report()["volumes"]
        return [one["name"] for one in volumes if one["state"] == "quarantined"]

    def told(self, name: str) -> list[Report]:
        """Return the findings of a volume, but for those of how it is mounted."""
        (volume,) = [one for one in self.report()["volumes"] if one["name"] == name]
        return [one for one in volume["findings"] if one["code"] not in {"EXT001", "EXT003"}]


@pytest.fixture(scope="module")
def lab(server: Demonstration) -> Iterator[Lab]:
    """Yield a laboratory for all tests of this file."""
    place = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    place.chmod(0o755)
    if IS_ROOT:
        shutil.chown(place, "nobody")
    with contextlib.ExitStack() as ends:
        ends.callback(shutil.rmtree, place)
        yield Lab(place, server, ends)


def test_the_server_runs_with_the_rest_and_met_none_of_it(lab: Lab) -> None:
    """It was started once, says nothing of any volume, and the good one works."""
    status = lab.manager.until_phase("running")
    assert status["postgres"]["restarts"] == 0
    assert "FATAL" not in lab.manager.logged()
    expected = {*QUARANTINED, "noexec"} if IS_ROOT else set(QUARANTINED)
    assert set(lab.quarantined()) == expected
    lab.manager.query("CREATE EXTENSION vector")
    assert lab.manager.query("SELECT '[1]'::vector") == [("[1]",)]
    assert ("twin", "1.0") in lab.manager.query(
        "SELECT name, default_version FROM pg_available_extensions"
    )
    lab.manager.query("DROP EXTENSION vector")


@pytest.mark.parametrize("name", QUARANTINED)
def test_the_cause_is_named(lab: Lab, name: str) -> None:
    """First, with its code, in words of its own; only what follows from it is said too."""
    row = QUARANTINED[name]
    errors = [one for one in lab.told(name) if one["severity"] == "error"]

    assert errors[0]["code"] == row.code
    assert row.cause in errors[0]["message"]
    # A module that can't be read is missing, too.
    assert {one["code"] for one in errors[1:]} <= {row.code, "EXT021"}


@pytest.mark.parametrize("name", MODULES)
def test_a_server_that_is_told_to_load_it_does_not_start(lab: Lab, name: str) -> None:
    """These are its words, for each module that was left out."""
    done = lab.plain.trial(name, path=f"{lab.root}/{name}/lib")

    assert done.returncode == 1
    assert MODULES[name].says.replace("@", f"{lab.root}/{name}") in done.stderr


@pytest.mark.parametrize("name", SHADOWS)
def test_a_server_with_it_in_its_way_says_nothing_of_its_own(lab: Lab, name: str) -> None:
    """The loader ends it: with a message, or a bus error."""
    done = lab.plain.trial("", library_path=f"{lab.root}/{name}/system")

    says = SHADOWS[name].says
    assert done.returncode in ((1, 127) if says else (-signal.SIGBUS,))
    assert says.replace("@", f"{lab.root}/{name}") in done.stderr


def test_a_truncated_module_kills_who_loads_it(lab: Lab) -> None:
    """A bus error: of a session, the whole server goes through a recovery."""
    done = lab.plain.trial("truncated", path=f"{lab.root}/truncated/lib")

    assert done.returncode == -signal.SIGBUS


def test_an_unknown_key_breaks_a_view_for_everybody(lab: Lab) -> None:
    """Of the extensions of all volumes."""
    path = f"$system:{lab.root}/key/share"
    with lab.plain.running(extension_control_path=path) as plain:
        said = plain.said("SELECT * FROM pg_available_extensions")

    file = f"{lab.root}/key/share/extension/key.control"
    assert f'unrecognized parameter "magic_sauce" in file "{file}"' in said


def test_a_library_of_another_machine_is_passed_over(lab: Lab) -> None:
    """The server takes its own one: nothing is said."""
    with lab.plain.running(library_path=f"{lab.root}/foreign/system") as plain:
        maps = Path(f"/proc/{plain.pid}/maps").read_text()

    assert "libz.so.1" in maps
    assert str(lab.root) not in maps


def test_a_library_that_fits_takes_the_place_of_the_servers_own_in_silence(lab: Lab) -> None:
    """As an older zlib or OpenSSL would: only the manager says so, and lets it."""
    (told,) = lab.told("zlib")
    with lab.plain.running(library_path=f"{lab.root}/zlib/system") as plain:
        maps = Path(f"/proc/{plain.pid}/maps").read_text()
        log = plain.log.read_text()

    assert (told["code"], told["severity"]) == ("EXT043", "warning")
    assert (
        'volume "zlib" ships libz.so.1, which would replace the server\'s own' in told["message"]
    )
    assert f"{lab.root}/zlib/system/libz.so.1" in maps
    assert "zlib" not in log.replace(str(lab.root), "")


def test_a_mount_without_execution_is_told(lab: Lab) -> None:
    """Root alone can make one."""
    if not IS_ROOT:
        return
    (told,) = [one for one in lab.told("noexec") if one["severity"] == "error"]
    done = lab.plain.trial("noexec", path=f"{lab.root}/noexec/lib")

    assert told["code"] == "EXT004"
    assert 'volume "noexec" is mounted noexec' in told["message"]
    assert "noexec.so: failed to map segment from shared object" in done.stderr


def test_of_two_volumes_with_one_extension_the_first_wins_in_silence(lab: Lab) -> None:
    """The manager names both, and which one it is."""
    (told,) = [one for one in lab.report()["findings"] if one["code"] == "EXT016"]
    path = f"$system:{lab.root}/twin1/share:{lab.root}/twin2/share"
    with lab.plain.running(extension_control_path=path) as plain:
        said = plain.said(
            "SELECT default_version::text FROM pg_available_extensions WHERE name='twin'"
        )
        log = plain.log.read_text()
    assert (told["subject"], told["severity"]) == ("twin", "warning")
    assert "provided by twin1 and twin2; twin1 wins" in told["message"]
    assert said == "[('1.0',)]"
    assert "twin" not in log


def test_what_the_user_wants_loaded_refuses_the_start(lab: Lab) -> None:
    """Each of the modules by its cause, before a server is started; names of nothing too."""
    settings = copy.deepcopy(lab.manager.settings)
    settings["postgres"]["shared_preload_libraries"] = [*MODULES, "nosuchlib"]
    settings["postgres"]["parameters"] = {"session_preload_libraries": "nosuchsession"}
    # Not the file of the manager that runs: it would read it again.
    file = lab.manager.directory / "wanted.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        lab.manager.command("check", "--config", str(file), "--output", "json"),
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        **run_as(),
    )
    refused = json.loads(done.stdout)["refusal"]["message"]

    assert done.returncode == 3
    for name, row in MODULES.items():
        assert f'shared_preload_libraries names "{name}"' in refused, refused
        assert row.code in refused
    assert 'EXT051 shared_preload_libraries lists "nosuchlib"' in refused
    assert 'EXT051 session_preload_libraries lists "nosuchsession"' in refused


def test_a_name_of_no_library_ends_a_start_and_every_session(lab: Lab) -> None:
    """What those findings are about."""
    expected = 'FATAL:  could not access file "nosuchlib": No such file or directory'
    assert expected in lab.plain.trial("nosuchlib").stderr
    with lab.plain.running(session_preload_libraries="nosuchlib") as plain:
        assert expected in plain.said("SELECT 1")
