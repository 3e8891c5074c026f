from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from instance_manager.extensions.environment import expand, of_volume
from instance_manager.extensions.metadata import Metadata
from instance_manager.settings.models import VolumeSettings
from instance_manager.settings.variables import is_reserved_variable

if TYPE_CHECKING:
    from collections.abc import Callable

    from instance_manager.extensions.facts import VolumeFacts


@pytest.mark.parametrize(
    "name",
    [
        *("PGDATA", "PG", "LD_PRELOAD", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"),
        *("INSTANCE_MANAGER_CONFIG", "OPENSSL_CONF", "KRB5_CONFIG", "NSS_WRAPPER_PASSWD"),
        *("LC_ALL", "PERL5LIB", "PATH", "HOME", "LANG", "TZ", "TMPDIR", "BASH_ENV", "LOCPATH"),
        *("GCONV_PATH", "PYTHONSTARTUP"),
    ],
)
def test_names_that_change_the_server_or_the_loader_are_reserved(name: str) -> None:
    """A volume must not set them, whoever says so."""
    assert is_reserved_variable(name)
    assert expand([(name, "x")], "/v").variables == {}
    (problem,) = expand([(name, "x")], "/v").problems
    assert problem.startswith(f"variable {name!r} is reserved and can't be set by a volume")


@pytest.mark.parametrize("name", ["PROJ_DATA", "GDAL_DATA", "R_HOME", "TCL_LIBRARY", "P"])
def test_ordinary_names_are_not_reserved(name: str) -> None:
    """What third-party libraries read is a volume's to set."""
    assert not is_reserved_variable(name)


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("${image_root}/share/proj", "/extensions/postgis/share/proj"),
        ("${image_root}:${image_root}/b", "/extensions/postgis:/extensions/postgis/b"),
        ("$${image_root}", "${image_root}"),
        ("$${x}${image_root}", "${x}/extensions/postgis"),
        ("$HOME $$ {} $", "$HOME $$ {} $"),
        ("", ""),
    ],
)
def test_the_mount_and_the_escape_are_expanded(value: str, expanded: str) -> None:
    """``${image_root}`` is the mount, ``$${`` a literal; nothing else is touched."""
    environment = expand([("PROJ_DATA", value)], "/extensions/postgis")

    assert environment == ({"PROJ_DATA": expanded}, ())


@pytest.mark.parametrize("value", ["${imageroot}", "${}", "${image_root", "${image_root}${x}"])
def test_an_unknown_placeholder_is_a_problem(value: str) -> None:
    """A typing error must not reach a library as a path."""
    environment = expand([("A", value)], "/v")

    assert environment.variables == {}
    assert "unknown placeholder" in environment.problems[0]


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")])
def test_what_no_process_can_be_given_is_a_problem(name: str, value: str) -> None:
    """execve(2) takes neither an equals sign in a name nor a NUL anywhere."""
    assert len(expand([(name, value)], "/v").problems) == 1


def test_settings_win_over_metadata_by_name(volume_facts: Callable[..., VolumeFacts]) -> None:
    """What the builder says is replaced variable by variable."""
    volume = volume_facts("a", metadata=Metadata(env=(("X", "built"), ("Y", "${image_root}"))))
    settings = VolumeSettings.model_validate(
        {"name": "a", "env": [{"name": "X", "value": "chosen"}, {"name": "Z", "value": "1"}]}
    )

    assert of_volume(volume, settings).variables == {
        "X": "chosen",
        "Y": "/extensions/a",
        "Z": "1",
    }
    assert of_volume(volume, None).variables == {"X": "built", "Y": "/extensions/a"}
