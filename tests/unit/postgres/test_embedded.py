"""The demonstration's settings and its words for people."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from instance_manager.configuration.checks import CHECKS
from instance_manager.postgres import embedded
from instance_manager.postgres.embedded import Demonstration, Ports
from instance_manager.settings.files import load_settings

PORTS = Ports(postgres=15432, health=18080, control=18000)


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "it's", 'a "quote"', "- a dash", "# hash", "ü", "${HOME}", "a\\b"],
)
def test_the_settings_load_whatever_the_directory_is_called(tmp_path: Path, name: str) -> None:
    """Every place in them is the one that was meant."""
    places = Demonstration(tmp_path / name)
    places.root.mkdir()
    path = embedded.write_settings(places, PORTS)
    settings = load_settings({}, config=path, overrides={}, checks=CHECKS).settings

    assert settings.postgres.bin_directory == places.bin_directory
    assert settings.postgres.data_directory == places.state / "data"
    assert settings.postgres.socket_directory == places.state
    assert settings.extensions.root == places.extensions
    assert settings.control.socket == places.state / "control.sock"
    assert settings.postgres.port == 15432


def test_the_demonstration_listens_on_this_machine_only(tmp_path: Path) -> None:
    """Nobody else on the network can reach a server that was made to be tried."""
    path = embedded.write_settings(Demonstration(tmp_path), PORTS)
    settings = load_settings({}, config=path, overrides={}, checks=CHECKS).settings

    assert settings.postgres.listen_addresses == "127.0.0.1"
    assert "127.0.0.1" in str(settings.health.listen)
    assert "127.0.0.1" in str(settings.control.listen)
    assert settings.postgres.run_as not in {"root", "0"}


def test_people_are_told_where_everything_is(tmp_path: Path) -> None:
    """Every port and place in the words is that of the settings."""
    said = embedded.describe(Demonstration(tmp_path), PORTS)

    for word in (
        f"http://127.0.0.1:{PORTS.control}/v1/status",
        f"http://127.0.0.1:{PORTS.health}/readyz",
        f"-p {PORTS.postgres}",
        str(tmp_path / "config.yaml"),
        str(tmp_path / "extensions" / "pgvector"),
    ):
        assert word in said


def test_a_wrong_number_of_arguments_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The usage line is said, and nothing is made."""
    assert embedded.main([]) == 2
    assert embedded.main(["one", "two"]) == 2
    assert "DIRECTORY" in capsys.readouterr().err


def test_the_servers_copy_has_no_pgvector_and_the_volume_has_it(
    tmp_path: Path, lacking: Callable[[str, str], NoReturn]
) -> None:
    """So whoever gets it gets it from the volume; a second call changes nothing."""
    try:
        embedded.package_directory()
    except ModuleNotFoundError as error:
        lacking("postgres", str(error))
    places = embedded.lay_out(tmp_path)
    volume = places.extensions / "pgvector"
    before = volume.stat().st_mtime_ns

    assert not list(places.server.rglob("vector*"))
    assert (volume / "lib" / "vector.so").is_file()
    assert (volume / "share" / "extension" / "vector.control").is_file()
    assert os.access(places.bin_directory / "postgres", os.X_OK)
    assert stat.S_ISDIR(volume.stat().st_mode)
    assert embedded.lay_out(tmp_path) == places
    assert volume.stat().st_mtime_ns == before
