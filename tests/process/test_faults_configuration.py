"""Faults of storage while a configuration is changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from tests.support.manager import Manager
from tests.support.volumes import MIB, tmpfs

TRUST = "host all all 127.0.0.1/32 trust"


@pytest.fixture(autouse=True)
def _as_root(lacking: Callable[[str, str], NoReturn]) -> None:
    if os.geteuid() != 0:
        lacking("postgres", "mounting a file system needs root")


def put(manager: Manager, parameters: dict[str, str]) -> tuple[int, Any]:
    """Send a document, whatever there is."""
    document = {"parameters": parameters, "hba": [TRUST]}
    return manager.ask("PUT", "/v1/configuration", document, **{"If-Match": "*"})


def test_a_full_disk_refuses_a_change_and_keeps_what_there_was(manager: Manager) -> None:
    """The answer is 507; the same change is taken when there is space."""
    with tmpfs(manager.directory / "volume", 512 * MIB) as volume:
        manager.data = volume.path / "pgdata"
        manager.trust().settings["configuration"] = {"source": "api"}
        manager.settings["postgres"]["data_directory"] = str(manager.data)
        manager.start().until_ready()
        try:
            assert put(manager, {"work_mem": "5MB"})[0] == 200
            ours = manager.data / "instance-manager"
            names = ("postgresql.conf", "pg_hba.conf", "configuration.json")
            before = {name: (ours / name).read_bytes() for name in names}
            volume.fill()

            code, problem = put(manager, {"work_mem": "6MB"})

            assert (code, problem["code"]) == (507, "disk-full"), problem
            assert {name: (ours / name).read_bytes() for name in names} == before
            assert manager.query("SHOW work_mem")[0][0] == "5MB"
            _, document = manager.ask("GET", "/v1/configuration")
            assert document["parameters"] == {"work_mem": "5MB"}
            volume.free()
            assert put(manager, {"work_mem": "6MB"})[0] == 200
            assert manager.query("SHOW work_mem")[0][0] == "6MB"
        finally:
            volume.free()
            manager.end()
