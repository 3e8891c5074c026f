"""What tests of every room may ask for: a server tree for the session, and managers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from instance_manager.postgres import account
from instance_manager.postgres.embedded import Demonstration, lay_out
from tests.support.manager import ACCOUNT, Manager


def _directory() -> Path:
    """Make a directory that the account of postgres can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def server(lacking: Callable[[str, str], NoReturn]) -> Iterator[Demonstration]:
    """Yield the embedded server without pgvector, and pgvector as a volume."""
    directory = _directory()
    try:
        yield lay_out(directory)
    except ModuleNotFoundError as error:
        lacking("postgres", str(error))
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def workspace() -> Iterator[Path]:
    """Yield a directory that belongs to the account of postgres."""
    directory = _directory()
    if os.geteuid() == 0:
        owner = account.find(ACCOUNT)
        os.chown(directory, owner.uid, owner.gid)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def manager(workspace: Path, server: Demonstration) -> Iterator[Manager]:
    """Yield a manager that is not started yet; nothing of it is left afterwards."""
    made = Manager(workspace, server)
    yield made
    made.clean_up()
