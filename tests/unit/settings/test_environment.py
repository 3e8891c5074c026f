"""Both environments: our own variables, and those of the official image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.errors import SettingsError
from instance_manager.settings.image_environment import (
    FILE_VARIABLES,
    SECRET_VARIABLES,
    VARIABLES,
    image_layer,
)
from instance_manager.settings.keys import known_keys
from instance_manager.settings.layers import parse_json
from instance_manager.settings.loading import load
from instance_manager.settings.sources import SettingsText

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instance_manager.settings import Settings


def settings_of(environment: Mapping[str, str], file: str = "", **files: str) -> Settings:
    """Load from an environment, a settings file, and what ``…_FILE`` variables name."""
    text = SettingsText(
        environment=environment,
        file_name="f" if file else "",
        file_text=file,
        variable_files=files,
    )
    return load(text).settings


def problems_of(environment: Mapping[str, str], **files: str) -> list[str]:
    """Return what is wrong with an environment, as people read it."""
    try:
        settings_of(environment, **files)
    except SettingsError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_each_key_has_a_variable_of_its_own() -> None:
    """The path in capitals, its parts joined by two underscores."""
    variables = {path: key.variable for path, key in known_keys().items()}

    assert variables["postgres.port"] == "INSTANCE_MANAGER_POSTGRES__PORT"
    assert variables["control.tls.key_file"] == "INSTANCE_MANAGER_CONTROL__TLS__KEY_FILE"
    assert variables["failure"] == "INSTANCE_MANAGER_FAILURE"
    assert len(set(variables.values())) == len(variables)


def test_lists_and_maps_are_json() -> None:
    """Also those that hold maps."""
    settings = settings_of(
        {
            "INSTANCE_MANAGER_POSTGRES__SHARED_PRELOAD_LIBRARIES": '["a", "b"]',
            "INSTANCE_MANAGER_EXTENSIONS__VOLUMES": '[{"name": "v", "required": true}]',
            "INSTANCE_MANAGER_DATABASES": "[]",
        }
    )

    assert settings.postgres.shared_preload_libraries == ("a", "b")
    assert settings.extensions.volumes[0].required is True
    assert settings.databases == ()


@pytest.mark.parametrize(
    "text", ["a, b", "{", '{"a": 1, "a": 2}', "[NaN]", "[" * 100_000, "[1] 2"]
)
def test_what_is_not_json_is_a_problem(text: str) -> None:
    """The key and the variable are named; the text, which may hold a password, is not shown."""
    (problem,) = problems_of({"INSTANCE_MANAGER_POSTGRES__PARAMETERS": text})

    assert problem.startswith("postgres.parameters: ")
    assert problem.endswith("(INSTANCE_MANAGER_POSTGRES__PARAMETERS)")
    assert len(problem) < 200


def test_a_variable_that_names_no_key_is_a_problem() -> None:
    """Two underscores say that a key was meant."""
    assert problems_of({"INSTANCE_MANAGER_POSTGRES__PROT": "1"}) == [
        (
            "INSTANCE_MANAGER_POSTGRES__PROT: this variable names no key;"
            " did you mean INSTANCE_MANAGER_POSTGRES__PORT?"
        )
    ]
    assert len(problems_of({"INSTANCE_MANAGER_postgres__port": "1"})) == 1
    assert len(problems_of({"INSTANCE_MANAGER_POSTGRES__PARAMETERS__WORK_MEM": "1"})) == 1


@pytest.mark.parametrize(
    "name",
    [
        "INSTANCE_MANAGER_SERVICE_HOST",
        "INSTANCE_MANAGER_PORT",
        "INSTANCE_MANAGER_PORT_8080_TCP_ADDR",
        "INSTANCE_MANAGER_CONFIG",
        "INSTANCE_MANAGER_POSTGRES",
        "instance_manager_postgres__port",
        "POSTGRES__PORT",
    ],
)
def test_other_variables_are_ignored(name: str) -> None:
    """Kubernetes injects such for a Service named instance-manager."""
    assert problems_of({name: "tcp://10.0.0.1:8080"}) == []


def test_a_problem_names_its_variable() -> None:
    """Nobody has to guess where a value came from."""
    assert problems_of({"INSTANCE_MANAGER_POSTGRES__PORT": "x"}) == [
        "postgres.port: must be a whole number, not 'x' (INSTANCE_MANAGER_POSTGRES__PORT)"
    ]


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_of_json_keep_their_text(number: float) -> None:
    """What was written is what the server gets."""
    assert parse_json(f"[{number!r}]") == [repr(number)]


def test_the_image_variables_set_what_they_say() -> None:
    """A manifest for the official image works unchanged."""
    settings = settings_of(
        {
            "PGDATA": "/data",
            "PGPORT": "5433",
            "POSTGRES_USER": "admin",
            "POSTGRES_PASSWORD": "hunter2",
            "POSTGRES_DB": "app",
            "POSTGRES_INITDB_ARGS": "--data-checksums --locale='C UTF-8'",
            "POSTGRES_INITDB_WALDIR": "/wal",
            "POSTGRES_HOST_AUTH_METHOD": "trust",
        }
    )

    assert settings.postgres.data_directory == Path("/data")
    assert settings.postgres.port == 5433
    assert settings.postgres.wal_directory == Path("/wal")
    assert settings.postgres.host_auth_method == "trust"
    assert settings.bootstrap.superuser == "admin"
    assert settings.bootstrap.superuser_password is not None
    assert settings.bootstrap.superuser_password.get_secret_value() == "hunter2"
    assert settings.bootstrap.database == "app"
    assert settings.bootstrap.initdb_arguments == ("--data-checksums", "--locale=C UTF-8")


def test_empty_variables_are_not_set() -> None:
    """That image asks whether a variable is empty, not whether it exists."""
    assert settings_of(dict.fromkeys((*VARIABLES, *FILE_VARIABLES), "")) == settings_of({})


def test_a_user_brings_a_database_of_the_same_name() -> None:
    """That image does so, and applications rely on it."""
    assert settings_of({"POSTGRES_USER": "app"}).bootstrap.database == "app"
    assert settings_of({"POSTGRES_USER": "app", "POSTGRES_DB": "x"}).bootstrap.database == "x"
    assert settings_of({"POSTGRES_USER": "postgres"}).bootstrap.database is None
    file = "bootstrap: {database: y}"
    assert settings_of({"POSTGRES_USER": "app"}, file).bootstrap.database == "y"


def test_variables_can_name_files() -> None:
    """What a file says counts like the variable itself."""
    settings = settings_of(
        {"POSTGRES_USER_FILE": "/run/user", "PGPORT_FILE": "/run/port"},
        POSTGRES_USER_FILE="admin",
        PGPORT_FILE="5433",
    )

    assert (settings.bootstrap.superuser, settings.postgres.port) == ("admin", 5433)


def test_the_file_of_the_password_is_not_read_into_the_settings() -> None:
    """It is read when it is needed, and again when it changes."""
    settings = settings_of({"POSTGRES_PASSWORD_FILE": "/run/secret"})

    assert settings.bootstrap.superuser_password is None
    assert settings.bootstrap.superuser_password_file == Path("/run/secret")
    assert "POSTGRES_PASSWORD_FILE" not in FILE_VARIABLES


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_a_variable_and_its_file_can_not_both_be_set(name: str) -> None:
    """It would not be clear which one counts."""
    value = "/a" if name in {"PGDATA", "POSTGRES_INITDB_WALDIR"} else "trust"
    problems = problems_of({name: value, f"{name}_FILE": "/f"}, **{f"{name}_FILE": value})

    assert f"{name}: both {name} and {name}_FILE are set: unset one" in problems


def test_arguments_that_no_shell_could_read_are_a_problem() -> None:
    """An open quote is told."""
    (problem,) = problems_of({"POSTGRES_INITDB_ARGS": "--locale='C"})

    assert problem.startswith("POSTGRES_INITDB_ARGS: must be arguments as a shell reads them")


def test_a_password_file_of_the_settings_is_stronger_than_the_password() -> None:
    """The two keys are one password, and the stronger source gives it."""
    settings = settings_of(
        {"POSTGRES_PASSWORD": "old"}, "bootstrap: {superuser_password_file: /new}"
    )

    assert settings.bootstrap.superuser_password is None
    assert settings.bootstrap.superuser_password_file == Path("/new")


def test_a_password_shows_nowhere() -> None:
    """Not in the settings' text, and not in any problem."""
    environment = {"POSTGRES_PASSWORD": "hunter2"}

    assert "hunter2" not in repr(settings_of(environment))
    assert "hunter2" not in settings_of(environment).model_dump_json()
    assert "hunter2" not in str(problems_of(environment | {"PGPORT": "x"}))
    assert SECRET_VARIABLES == ("POSTGRES_PASSWORD",)


@given(st.dictionaries(st.sampled_from([*VARIABLES, *FILE_VARIABLES]), st.text(max_size=9)))
def test_any_environment_is_a_layer(environment: dict[str, str]) -> None:
    """No text makes reading it fail."""
    layer = image_layer(environment, environment)

    assert set(layer.values) == set(layer.origins)
