from __future__ import annotations

from pathlib import Path

import pytest

from instance_manager.configuration.checks import CHECKS
from instance_manager.configuration.parameters import (
    COMPOSED,
    OWNED,
    TAKEN_FROM_AUTO_CONF,
    Server,
    assemble,
    is_name,
    problems,
)
from instance_manager.errors import SettingsError
from instance_manager.extensions.models import Composed
from instance_manager.settings import PostgresSettings
from instance_manager.settings.loading import load
from instance_manager.settings.sources import SettingsText

COMPOSITION = Composed(
    extension_control_path="$system:/extensions/a/share",
    dynamic_library_path="$libdir:/extensions/a/lib",
    shared_preload_libraries="a,b",
    ld_library_path="",
    path="/usr/bin",
    env={},
)


def server(major: int = 18, instance: str = "pg-0") -> Server:
    """Describe a server of a version."""
    return Server(
        major=major,
        hba_file=Path("/data/instance-manager/pg_hba.conf"),
        ident_file=Path("/data/instance-manager/pg_ident.conf"),
        log_directory=Path("/run/instance-manager/log"),
        instance=instance,
    )


def told(
    settings: dict[str, object] | None = None,
    metadata: dict[str, str] | None = None,
    major: int = 18,
    composed: Composed = COMPOSITION,
) -> dict[str, str]:
    """Assemble from settings as they may stand in a file."""
    postgres = PostgresSettings.model_validate(settings or {})
    return assemble(postgres, composed, metadata or {}, server(major))


def test_the_server_is_told_exactly_what_is_the_managers_own() -> None:
    """Without settings there is nothing else but one default."""
    assert told() == {
        "allow_alter_system": "off",
        "cluster_name": "pg-0",
        "dynamic_library_path": "$libdir:/extensions/a/lib",
        "extension_control_path": "$system:/extensions/a/share",
        "hba_file": "/data/instance-manager/pg_hba.conf",
        "ident_file": "/data/instance-manager/pg_ident.conf",
        "listen_addresses": "*",
        "log_destination": "jsonlog",
        "log_directory": "/run/instance-manager/log",
        "log_filename": "postgres",
        "log_rotation_age": "0",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "off",
        "logging_collector": "on",
        "port": "5432",
        "shared_preload_libraries": "a,b",
        "unix_socket_directories": "/run/postgresql",
    }


def test_settings_become_the_parameters_that_they_own() -> None:
    """Each owned parameter follows its setting."""
    parameters = told(
        {
            "port": 5433,
            "listen_addresses": "127.0.0.1",
            "socket_directory": "/run/a, b",
            "allow_alter_system": True,
        }
    )

    assert parameters["port"] == "5433"
    assert parameters["listen_addresses"] == "127.0.0.1"
    assert parameters["unix_socket_directories"] == '"/run/a, b"'
    assert parameters["allow_alter_system"] == "on"


def test_the_user_is_stronger_than_a_volume_and_than_our_defaults() -> None:
    """Metadata asks, the user says."""
    parameters = told(
        {"parameters": {"Cron.Database_Name": "app", "cluster_name": "mine"}},
        {"cron.database_name": "postgres", "cron.timezone": "UTC"},
    )

    assert parameters["cron.database_name"] == "app"
    assert parameters["cron.timezone"] == "UTC"
    assert parameters["cluster_name"] == "mine"


@pytest.mark.parametrize("name", sorted(COMPOSED))
def test_composed_search_paths_contain_the_users_own_already(name: str) -> None:
    """The user's value was composed; alone it would hide the volumes."""
    parameters = told({"parameters": {name.upper(): "/mine"}})

    assert parameters[name] == getattr(COMPOSITION, name)


def test_metadata_never_reaches_what_is_owned() -> None:
    """Whatever a volume asks for, the manager's own stand."""
    parameters = told(metadata=dict.fromkeys(told(), "x"))

    changed = {name for name, value in told().items() if parameters[name] != value}
    assert changed == {"cluster_name"}


@pytest.mark.parametrize(
    ("major", "missing"),
    [
        (15, {"extension_control_path", "allow_alter_system"}),
        (16, {"extension_control_path", "allow_alter_system"}),
        (17, {"extension_control_path"}),
        (18, set[str]()),
        (19, set[str]()),
    ],
)
def test_an_older_server_is_not_told_what_it_does_not_know(major: int, missing: set[str]) -> None:
    """An unknown parameter would keep it from starting."""
    parameters = told({"parameters": {"extension_control_path": "/mine"}}, major=major)

    assert set(told()) - set(parameters) == missing


def test_a_path_that_is_empty_is_not_told() -> None:
    """An empty search path would take away the server's own."""
    composed = COMPOSITION.model_copy(
        update={"extension_control_path": "", "dynamic_library_path": ""}
    )

    assert not COMPOSED & set(told(composed=composed))


def test_a_long_instance_name_is_cut_as_the_server_would() -> None:
    """A host name may be longer than an identifier."""
    parameters = assemble(PostgresSettings(), COMPOSITION, {}, server(instance="x" * 80))

    assert parameters["cluster_name"] == "x" * 63


@pytest.mark.parametrize("name", sorted(OWNED))
def test_an_owned_parameter_is_refused_with_what_to_do(name: str) -> None:
    """In any case of letters, since the server does not tell them apart."""
    for written in (name, name.upper()):
        (problem,) = problems({written: "x"})

        assert problem.path == f"postgres.parameters.{written}"
        assert problem.message.startswith(f"cannot set parameter {written!r}: it is the manager's")
        assert problem.message.endswith(OWNED[name])


def test_owned_parameters_with_a_setting_name_its_key() -> None:
    """The key that a problem names exists."""
    for reason in OWNED.values():
        if reason.startswith("use "):
            key = reason.removeprefix("use postgres.")
            assert key in PostgresSettings.model_fields


def test_every_parameter_that_we_set_is_owned_composed_or_a_default() -> None:
    """Nothing of the manager's can be set by the user to no effect."""
    assert set(told()) - set(OWNED) - COMPOSED == {"cluster_name"}


@pytest.mark.parametrize(
    "name", ["log_file_mode", "extension_control_path", "dynamic_library_path", "a.b", "_x"]
)
def test_other_parameters_may_be_set(name: str) -> None:
    """What the manager does not own is the user's."""
    assert problems({name: "any 'value'\n"}) == ()


@pytest.mark.parametrize(
    "name", ["", "1a", "a b", "a-b", "a.b.c", "a.", ".a", "a'", "a\n", "a = 'x'\nb", "ä", "a$"]
)
def test_what_the_file_could_not_carry_as_a_name_is_refused(name: str) -> None:
    """A name that is none could smuggle in another line."""
    assert not is_name(name)
    assert "this is no parameter's name" in problems({name: "x"})[0].message


@pytest.mark.parametrize("name", ["include", "INCLUDE_DIR", "include_if_exists"])
def test_directives_are_no_parameters(name: str) -> None:
    """The file's grammar would take them for an order to read another file."""
    assert "write its parameters out" in problems({name: "/etc/passwd"})[0].message


def test_our_own_marks_are_refused() -> None:
    """The hash that tells what the server has loaded is not the user's to set."""
    assert len(problems({"instance_manager.config_sha256": "x"})) == 1
    assert len(problems({"Instance_Manager.x": "x"})) == 1


def test_a_name_in_two_spellings_is_refused() -> None:
    """The server would take the last one."""
    (problem,) = problems({"work_mem": "1MB", "Work_Mem": "2MB"})

    assert "given twice" in problem.message


def test_a_nul_in_a_value_is_refused() -> None:
    """The value would end there."""
    assert "NUL" in problems({"a.b": "x\0y"})[0].message


def test_problems_stand_where_the_caller_says() -> None:
    """The configuration document has its parameters elsewhere."""
    assert problems({"port": "1"}, "parameters")[0].path == "parameters.port"


def test_all_problems_are_found_at_once() -> None:
    """Not the first one only."""
    assert len(problems({"port": "1", "1": "1", "a.b": "\0", "fine": "x"})) == 3


def test_what_would_win_over_our_file_is_known() -> None:
    """All that is owned, and the paths that are composed."""
    assert {"port", "hba_file", "extension_control_path"} <= TAKEN_FROM_AUTO_CONF
    assert "work_mem" not in TAKEN_FROM_AUTO_CONF


def test_settings_are_refused_with_the_problems_of_this_room() -> None:
    """Loading tells them with all others, each with its place."""
    file = 'postgres:\n  parameters:\n    port: 1\n  hba: ["a\\nb"]\n  ident: ["a\\\\"]\n'
    text = SettingsText(
        file_name="f", file_text=file, environment={"POSTGRES_HOST_AUTH_METHOD": "peer"}
    )

    with pytest.raises(SettingsError) as caught:
        load(text, CHECKS)

    assert [problem.path for problem in caught.value.problems] == [
        "postgres.parameters.port",
        "postgres.hba.0",
        "postgres.ident.0",
        "POSTGRES_HOST_AUTH_METHOD",
    ]
    assert caught.value.problems[0].message.endswith("use postgres.port (f, line 3)")


def test_good_settings_pass_the_checks_of_this_room() -> None:
    """What is right is not touched."""
    text = SettingsText(
        file_name="f",
        file_text="postgres: {parameters: {work_mem: 1MB}, hba: [local all all peer]}",
    )

    assert load(text, CHECKS).settings.postgres.hba == ("local all all peer",)


@pytest.mark.parametrize("value", ["0577", "288", "0x16d", " 0 ", "0"])
def test_a_socket_that_its_owner_can_not_use_is_refused(value: str) -> None:
    """The manager itself would be locked out, and wait for the server for ever."""
    (problem,) = problems({"Unix_Socket_Permissions": value})

    assert "write permission" in problem.message


@pytest.mark.parametrize("value", ["0700", "0777", "511", "0x1ff", "0200", "nonsense", "08", ""])
def test_a_socket_that_its_owner_can_use_is_the_servers_to_judge(value: str) -> None:
    """What is no number, too."""
    assert problems({"unix_socket_permissions": value}) == ()
