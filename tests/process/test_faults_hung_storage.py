"""Storage that never answers, from the very beginning: the manager serves, and ends when asked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NoReturn

import pytest

from instance_manager import proving
from instance_manager.errors import VolumesUnansweringError
from instance_manager.extensions.composition import Base
from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.scan import Server
from instance_manager.postgres import account
from instance_manager.postgres.binaries import find
from instance_manager.postgres.rehearsal import Rehearsal, rehearse
from instance_manager.postgres.tracing import Tracer
from instance_manager.settings.models import Settings
from instance_manager.shutdown import Shutdown
from instance_manager.supervision.children import Children
from instance_manager.supervision.threads import Serial
from tests.support.manager import ACCOUNT, DEADLINE_SECONDS, Manager, until
from tests.support.volumes import unanswering

UNCLEAN: Final = 8
"""The exit code where nobody can tell whether a recovery will run."""
PRIVATE: Final = (
    "unshare",
    "--mount",
    "--",
    "sh",
    "-c",
    'mount --rbind "$0" /var/lib && exec "$@"',
)
NOT_GIVEN: Final = "was not given to the account of postgres"


@pytest.fixture(autouse=True)
def _as_root(lacking: Callable[[str, str], NoReturn]) -> None:
    if os.geteuid() != 0:
        lacking("postgres", "mounting a file system needs root")


@contextmanager
def hung_place(manager: Manager) -> Iterator[None]:
    """Let the usual place of the data never answer, in the manager's own mounts."""
    places = manager.directory / "lib"
    (places / "postgresql").mkdir(parents=True)
    manager.prefix = (*PRIVATE, str(places))
    del manager.settings["postgres"]["data_directory"]
    with unanswering(places / "postgresql" / "data"):
        yield


@contextmanager
def hung_data(manager: Manager) -> Iterator[None]:
    """Let the configured data directory never answer, which is root's to give away."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        manager.settings["postgres"]["data_directory"] = f"{place}/data"
        with unanswering(Path(place) / "data"):
            yield


def as_ordinary_user(manager: Manager) -> None:
    """Start the manager as the account of postgres."""
    me = account.find(ACCOUNT)
    given = ("setpriv", f"--reuid={me.uid}", f"--regid={me.gid}", "--clear-groups")
    manager.prefix = (*manager.prefix, *given)


def is_there(path: Path) -> bool:
    return path.exists()


def is_alive(manager: Manager) -> bool:
    return manager.probe("livez")[0] == 200


@pytest.mark.parametrize("hung", [hung_place, hung_data], ids=["usual place", "configured"])
@pytest.mark.parametrize("by_root", [False, True], ids=["ordinary user", "root"])
def test_storage_that_never_answers_keeps_nobody_from_probes_and_the_end(
    manager: Manager, hung: Callable[[Manager], AbstractContextManager[None]], by_root: bool
) -> None:
    """What blocks on it delays the start only; root gives up giving the directory away."""
    manager.settings["shutdown"] = {"fast_seconds": 1, "immediate_seconds": 1}
    with hung(manager):
        if not by_root:
            as_ordinary_user(manager)
        manager.start()
        until(lambda: is_alive(manager), "the manager is alive")
        assert manager.probe("startupz")[0] == 503
        assert manager.until_phase("starting")["failure"] is None
        assert (NOT_GIVEN in manager.logged()) == by_root

        assert manager.end() == UNCLEAN, manager.logged()


def test_a_start_goes_on_when_the_storage_answers(manager: Manager) -> None:
    """Even if it answers by an error: the failure names the directory."""
    with hung_place(manager):
        as_ordinary_user(manager)
        manager.start()
        until(lambda: is_alive(manager), "the manager is alive")
    failure = manager.until_phase("failed")["failure"]

    assert "/var/lib/postgresql/data" in failure["message"]
    assert manager.end() == failure["exit_code"]


def test_volumes_that_never_answer_fail_a_start_which_is_tried_again(manager: Manager) -> None:
    """It says where; the server comes up by itself as soon as they answer, or are gone."""
    root = manager.directory / "volumes"
    root.mkdir()
    manager.settings["extensions"]["root"] = str(root)
    with unanswering(root / "hung"):
        manager.start()
        failure = manager.until_phase("failed")["failure"]

        assert failure["code"] == "preflight-refused"
        assert str(root) in failure["message"]
        assert is_alive(manager)
    manager.until_phase("running")

    assert manager.end() == 0


def test_one_thread_waits_for_volumes_that_never_answer(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often somebody looks; and a look elsewhere waits for none of them."""
    monkeypatch.setattr(proving, "_DEADLINE_SECONDS", 0.2)
    hung, other = manager.directory / "hung", manager.directory / "other"
    server = Server(ServerFacts(18, os.uname().machine), Base(""))

    async def look() -> int:
        with Children() as children:
            nobody: Any = None
            prover = proving.Prover(
                Tracer(children, Path("/nonexistent/postgres"), time.monotonic),
                clock=time.monotonic,
                on_warning=nobody,
                completed=lambda report, _, __: report,
            )
            for _ in range(3):
                with pytest.raises(VolumesUnansweringError, match=str(hung)):
                    await prover.look(rooted(hung), server)
            waiting = [one for one in threading.enumerate() if one.name == "discovery"]
            monkeypatch.undo()
            await prover.look(rooted(other), server)
            return len(waiting)

    with unanswering(hung):
        assert asyncio.run(look()) == 1


def rooted(root: Path) -> Settings:
    return Settings.model_validate({"extensions": {"root": str(root)}})


GIVE: Final = """
import os, signal, sys
from pathlib import Path
from instance_manager import handing_over
from instance_manager.postgres import account
handing_over._SECONDS = 3600
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
print(handing_over.give_data_directory(Path(sys.argv[1]), account.find(sys.argv[2])))
"""


def test_a_signal_to_end_cuts_the_wait_for_storage_short(manager: Manager) -> None:
    """TERM before the loop exists waits for no volume, and leaves no helper of root behind."""
    with hung_data(manager):
        directory = manager.settings["postgres"]["data_directory"]

        assert program(GIVE, directory, ACCOUNT) == "None"
        until(lambda: not helpers(directory), "the helper is gone")


HINT: Final = """
import asyncio, os, sys
from pathlib import Path
from types import SimpleNamespace
from instance_manager.startup import Startup
class Failing(Startup):
    async def _prepare(self):
        raise OSError(5, "Input/output error")
async def main():
    programs = SimpleNamespace(postgres="")
    place = SimpleNamespace(data_directory=Path(sys.argv[1]), binaries=programs)
    surroundings = SimpleNamespace(settings=None, place=place, name="", is_settled=True, load=None)
    journal = SimpleNamespace(on_event=None, on_warning=None)
    children = SimpleNamespace(hasten=None, pids=None)
    startup = Failing(surroundings, children, None, None, clock=lambda: 0.0, journal=journal)
    preparing = asyncio.create_task(startup.prepare())
    for _ in range(10):
        await asyncio.sleep(0.01)
    print("beats", preparing.done(), flush=True)
    os._exit(0)
asyncio.run(main())
"""


def test_an_error_of_storage_is_explained_without_holding_the_loop_up(manager: Manager) -> None:
    """The hint looks at each directory on the way: in a thread, since the next look may hang."""
    with unanswering(manager.data):
        assert program(HINT, str(manager.data / "below")) == "beats False"


def test_the_last_look_keeps_to_its_limit(manager: Manager) -> None:
    """Without an answer within it, nothing is said to be clean."""
    place = SimpleNamespace(data_directory=manager.data / "below")
    startup: Any = SimpleNamespace(settled_place=lambda: place)
    nobody: Any = None

    async def look() -> None:
        clock = asyncio.get_running_loop().time
        began = clock()

        assert not await Shutdown(startup, nobody, nobody).left_clean(0.1)
        assert clock() - began < 4  # it has five seconds where nothing else is said

    with unanswering(manager.data):
        asyncio.run(look())


def test_a_trial_on_storage_that_never_answers_can_be_given_up(manager: Manager) -> None:
    """What it has set up is cleared away behind it, and nobody waits for that."""
    stage = manager.directory / "stage"
    rehearsal = Rehearsal(
        binaries=find(manager.server.bin_directory, ""),
        data_directory=manager.data,
        stage=stage,
        configuration="",
        environment={},
    )

    async def body() -> None:
        with Children() as children:
            trial = asyncio.create_task(rehearse(children, rehearsal, Serial()))
            while not is_there(stage):
                await asyncio.sleep(0.005)
            trial.cancel()
            await asyncio.wait({trial}, timeout=DEADLINE_SECONDS)

            assert trial.cancelled()

    with unanswering(manager.data):
        asyncio.run(body())


def helpers(directory: str) -> list[Path]:
    """Return the living processes that were told of the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if directory.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(entry)
    return found


def program(text: str, *arguments: str) -> str:
    """Run a program to its end and return what it said."""
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
