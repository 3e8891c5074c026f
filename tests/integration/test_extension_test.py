"""``extension test`` with the real manager and a real server, on volumes that are made up."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from instance_manager.images import oci
from instance_manager.postgres.embedded import Demonstration
from tests.support.manager import ACCOUNT, until
from tests.support.sql_extensions import write

SECONDS: Final = 100
ONE: Final = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';"
TWO: Final = "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 2';"
# The parent of the program is the backend.
CRASH: Final = "COPY (SELECT 1) TO PROGRAM 'kill -SEGV $PPID; cat > /dev/null';"


@dataclass
class Site:
    """A directory for volumes, and one in which a test may write."""

    server: Demonstration
    root: Path
    scratch: Path

    def command(self, *arguments: str | Path) -> list[str]:
        program = [sys.executable, "-m", "instance_manager", "extension", "test"]
        return [*program, *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "INSTANCE_MANAGER_POSTGRES__BIN_DIRECTORY": str(self.server.bin_directory),
            "INSTANCE_MANAGER_POSTGRES__RUN_AS": ACCOUNT,
            "TMPDIR": str(self.scratch),
        }

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Test, and return how it ended; nothing is left behind."""
        done = subprocess.run(
            self.command(*arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=self.environment,
        )
        assert list(self.scratch.iterdir()) == []
        return done

    def tested(self, *arguments: str | Path, code: int = 0) -> Any:
        """Test one image; return what came of it."""
        done = self.run(*arguments, "--output=json")
        assert done.returncode == code, done.stdout + done.stderr
        (result,) = json.loads(done.stdout)["items"]
        return result


@pytest.fixture
def site(server: Demonstration, workspace: Path) -> Site:
    scratch = workspace / "t"
    scratch.mkdir()
    scratch.chmod(0o1777)
    return Site(server, workspace, scratch)


def outcomes(result: Any, name: str) -> dict[str, str]:
    """Return what became of the steps of an extension, or of the volume."""
    return {
        step["name"]: step["outcome"]
        for subject in result["subjects"]
        if subject["name"] == name
        for step in subject["steps"]
    }


def details(result: Any, name: str) -> dict[str, str]:
    """Return what is told of the steps."""
    return {
        step["name"]: step["detail"]
        for subject in result["subjects"]
        if subject["name"] == name
        for step in subject["steps"]
    }


def test_a_volume_that_works_is_good(site: Site) -> None:
    """Created, its library loaded, each function found in it, dropped; the statement is run."""
    result = site.tested(
        site.server.extensions / "pgvector", "--sql=SELECT '[1,2]'::vector <-> '[1,5]'"
    )

    assert (result["verdict"], result["volume"], result["findings"]) == ("good", "pgvector", [])
    assert outcomes(result, "vector") == {
        "create": "passed",
        "use": "passed",
        "drop": "passed",
        "update": "skipped",
    }
    assert details(result, "vector")["use"].startswith("loaded vector; found ")
    # Its scripts update from many, and make none of them.
    assert details(result, "vector")["update"] == "no older version can be created"
    assert details(result, "pgvector")["statements"] == "ran 1"


def test_a_statement_that_fails_makes_an_image_bad(site: Site) -> None:
    """The server's words are shown, and the code is 1."""
    volume = site.server.extensions / "pgvector"
    done = site.run(volume, "--sql=SELECT '[1]'::vector", "--sql=SELECT '[x]'::vector")

    assert done.returncode == 1
    assert "failed  statements: invalid input syntax for type vector" in done.stdout
    assert f"{volume}: bad, PostgreSQL 18" in done.stdout


def test_an_update_starts_from_the_oldest_version(site: Site) -> None:
    """Over all steps that the scripts have; what differs from a new one is remarked."""
    scripts = {"1.0": ONE, "1.0--1.1": "", "1.1--1.2": TWO, "1.2": f"{ONE}{TWO}"}
    write(site.root, "thing", scripts, default_version="1.2")
    write(
        site.root, "other", {"1.0": ONE, "1.0--1.1": "", "1.1": ONE + TWO}, default_version="1.1"
    )

    result = site.tested(site.root / "made-up")

    assert details(result, "thing")["update"] == "from 1.0 to 1.2, used and dropped"
    assert result["remarks"] == [
        "other updated from 1.0 is not as one that is new: it lacks: function g()"
    ]


def test_an_update_that_fails_makes_an_image_bad(site: Site) -> None:
    """Though the newest version can be created; the script and the line are named."""
    scripts = {"1.0": ONE, "1.0--1.1": "\nSELECT 1/0;", "1.1": ONE}
    write(site.root, "thing", scripts, default_version="1.1")

    result = site.tested(site.root / "made-up", code=1)

    assert outcomes(result, "thing")["create"] == "passed"
    assert details(result, "thing")["update"] == (
        "division by zero (22012), in thing--1.0--1.1.sql near line 2"
    )


def test_what_is_required_is_created_and_may_lie_beside(site: Site) -> None:
    """It is told; without the other volume the image is bad."""
    write(site.root, "thing", {"1.0": ONE}, requires="other")
    write(site.root, "other", {"1.0": TWO}, volume="beside")

    alone = site.tested(site.root / "made-up", code=1)
    result = site.tested(site.root / "made-up", "--with", site.root / "beside")

    assert 'extension "other" is not available' in details(alone, "thing")["create"]
    assert details(result, "thing")["create"] == "1.0, with other"
    assert result["beside"] == ["beside"]


def test_a_crash_is_told_and_what_comes_next_is_tested(site: Site) -> None:
    """The server is started again by the manager; the image is bad."""
    write(site.root, "bomb", {"1.0": CRASH})
    write(site.root, "thing", {"1.0": ONE})

    result = site.tested(site.root / "made-up", code=1)

    assert outcomes(result, "bomb")["create"] == "failed"
    assert outcomes(result, "thing")["create"] == "passed"
    assert result["log"]


def test_a_module_without_an_extension_is_loaded(site: Site) -> None:
    """As an output plugin would be."""
    (site.root / "plain" / "lib").mkdir(parents=True)
    shutil.copy(site.server.extensions / "pgvector/lib/vector.so", site.root / "plain/lib")

    result = site.tested(site.root / "plain")

    assert outcomes(result, "vector") == {"load": "passed"}


def test_a_volume_that_the_preflight_refuses_ends_with_its_code(site: Site) -> None:
    """Nothing is created then."""
    write(site.root, "thing", {"1.0": ONE})
    (site.root / "made-up/lib").mkdir()
    content = (site.server.extensions / "pgvector/lib/vector.so").read_bytes()
    (site.root / "made-up/lib/thing.so").write_bytes(content[:2000])

    result = site.tested(site.root / "made-up", code=3)

    assert (result["verdict"], result["subjects"]) == ("refused", [])
    assert "error" in {finding["severity"] for finding in result["findings"]}


def test_the_metadata_may_give_statements(site: Site) -> None:
    """They are run before those of the command line, in the same session."""
    write(site.root, "thing", {"1.0": ONE})
    described = site.root / "made-up/share/instance-manager/extension.json"
    described.parent.mkdir()
    described.write_text(json.dumps({"smoke_test": ["CREATE TEMP TABLE t AS SELECT f()"]}))

    result = site.tested(site.root / "made-up", "--sql=SELECT * FROM t")

    assert details(result, "made-up")["statements"] == "ran 2"


def test_extensions_are_created_where_users_would_have_them(site: Site) -> None:
    """Not in the catalog, where no table may be; scripts that take over are no version."""
    scripts = {"1.0": "CREATE TABLE t (x int);", "unpackaged": "SELECT 1/0;"}
    write(site.root, "thing", {**scripts, "unpackaged--1.0": ""})

    result = site.tested(site.root / "made-up", "--sql=SELECT * FROM public.t")

    assert details(result, "thing")["use"] == "read 1 tables and views"
    assert outcomes(result, "thing")["update"] == "skipped"
    assert result["remarks"] == []


def layout_of(tree: Path, layout: Path) -> Path:
    """Make the image of a volume."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    labels = {"org.opencontainers.image.title": "thing"}
    oci.write_layout(tree, layout, oci.Identity(machine, labels, 1, "thing:1"))
    return layout


def test_an_image_is_tested_as_a_layout_and_as_an_archive(site: Site) -> None:
    """Its title names the volume; the layout is left as it is."""
    write(site.root, "thing", {"1.0": ONE})
    layout = layout_of(site.root / "made-up", site.root / "layout")
    archive = shutil.make_archive(str(site.root / "image"), "tar", layout)

    for source in (layout, archive):
        assert site.tested(source)["volume"] == "thing"
    assert (layout / "index.json").exists()


def test_a_damaged_image_is_not_tested(site: Site) -> None:
    """A layer is held against its digest; nothing of it is unpacked."""
    write(site.root, "thing", {"1.0": ONE})
    layout = layout_of(site.root / "made-up", site.root / "layout")
    layer = max((layout / "blobs/sha256").iterdir(), key=lambda each: each.stat().st_size)
    layer.write_bytes(gzip.compress(b"something else"))

    done = site.run(layout)

    assert done.returncode == 2
    assert "is damaged" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere/to/be/found"], "no directory or file is there"),
        (["/", "--parameter=x"], "it must be NAME=VALUE"),
        (["/", "--statement-timeout=0"], "it must be more than 0"),
        (["pgvector", "--parameter=port=1"], "cannot set parameter 'port'"),
        (["pgvector", "--set=postgres.bin_directory=/nowhere"], "postgres is not there"),
    ],
)
def test_what_cannot_be_asked_for_ends_with_2(
    site: Site, arguments: Sequence[str], said: str
) -> None:
    """With a sentence that says why: no volume is bad for it."""
    place = site.server.extensions / "pgvector"
    done = site.run(*(place if each == "pgvector" else each for each in arguments))

    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_test_leaves_nothing(site: Site, number: signal.Signals) -> None:
    """Neither files nor a server."""
    write(site.root, "slow", {"1.0": "SELECT pg_sleep(3600);"})
    with subprocess.Popen(
        site.command(site.root / "made-up"),
        env=site.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        until(lambda: list(site.scratch.glob("im-*/run/.s.PGSQL.5432")), "the server is there")
        process.send_signal(number)
        _, errors = process.communicate(timeout=SECONDS)

    assert process.returncode == 130, errors
    assert list(site.scratch.iterdir()) == []
    assert running(site) == []


@pytest.mark.parametrize("has_manager", [True, False])
def test_a_killed_test_leaves_nothing(site: Site, has_manager: bool) -> None:
    """Its files go, and its manager and server end soon after it, even if both were killed."""
    write(site.root, "slow", {"1.0": "SELECT pg_sleep(3600);"})
    with subprocess.Popen(
        site.command(site.root / "made-up"), env=site.environment, stdout=subprocess.PIPE
    ) as process:
        until(lambda: list(site.scratch.glob("im-*/run/.s.PGSQL.5432")), "the server is there")
        managers = [pid for pid, said in running(site) if b"config.yaml" in said]
        process.kill()
        for pid in () if has_manager else managers:
            # It may be about to end by itself, as the test's end makes it.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Nobody holds its output open for longer.
        process.communicate(timeout=5)

    until(lambda: not running(site), "all of it has ended")
    until(lambda: not list(site.scratch.iterdir()), "its files are gone")


def running(site: Site) -> list[tuple[int, bytes]]:
    """Return the processes that work in the directories of tests, and their command lines."""
    found = ((int(entry.name), read(entry / "cmdline")) for entry in Path("/proc").glob("[0-9]*"))
    return [one for one in found if str(site.scratch).encode() in one[1]]


def read(place: Path) -> bytes:
    try:
        return place.read_bytes()
    except OSError:
        return b""
