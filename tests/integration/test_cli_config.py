"""``config show`` and ``config schema`` as people, scripts and editors use them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from instance_manager.settings.keys import KEYLESS
from tests.support.manager import Manager

CHECKOUT = Path(__file__).parents[2]
DEADLINE = 60.0
SECRET = "hunter2-must-not-be-seen"
PAGES = (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))


def config(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call ``config`` with nothing but this environment."""
    return subprocess.run(
        [sys.executable, "-m", "instance_manager", "config", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]} | environment,
        timeout=DEADLINE,
        check=False,
    )


def shown(*arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
    """Return what ``config show`` says of each key."""
    done = config("show", "--output", "json", *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    items = json.loads(done.stdout)["items"]
    assert all(set(one) == {"key", "value", "source", "origin"} for one in items)
    return {one["key"]: one for one in items}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Return a settings file whose lines are known."""
    path = tmp_path / "settings.yaml"
    path.write_text(
        "instance: {name: file}\n"
        "postgres:\n"
        "  port: 5440\n"
        "  parameters:\n"
        "    work_mem: 8MB\n"
        "    archive_mode: on\n"
        "shutdown: {fast_seconds: 30}\n"
    )
    return path


def test_each_key_is_shown_with_the_strongest_source_that_sets_it(settings: Path) -> None:
    """Command line, environment, file with its line, the official image's variables, default."""
    entries = shown(
        "--config",
        str(settings),
        "--set",
        "log.level=debug",
        "--set",
        "shutdown.fast_seconds=40",
        INSTANCE_MANAGER_INSTANCE__NAME="variable",
        INSTANCE_MANAGER_SHUTDOWN__FAST_SECONDS="35",
        PGPORT="5441",
        POSTGRES_DB="app",
    )

    def origin(key: str) -> tuple[Any, str, str]:
        entry = entries[key]
        return entry["value"], entry["source"], entry["origin"]

    assert origin("log.level") == ("debug", "command-line", "command line")
    assert origin("shutdown.fast_seconds") == (40, "command-line", "command line")
    assert origin("instance.name") == (
        "variable",
        "environment",
        "INSTANCE_MANAGER_INSTANCE__NAME",
    )
    assert origin("postgres.port") == (5440, "file", f"{settings}, line 3")
    assert origin("bootstrap.database") == ("app", "image-environment", "POSTGRES_DB")
    assert origin("failure") == ("stay", "default", "default")


def test_a_value_is_shown_as_it_is_meant(settings: Path) -> None:
    """What YAML would make of a word is not what the server gets."""
    entries = shown("--config", str(settings))

    assert entries["postgres.parameters"]["value"] == {"work_mem": "8MB", "archive_mode": "on"}


def test_people_and_programs_are_told_the_same(settings: Path) -> None:
    """A line for each key, with its value and its origin, in the same order."""
    arguments = ("--config", str(settings), "--set", "log.level=debug")
    lines = config("show", *arguments).stdout.splitlines()
    entries = shown(*arguments)

    assert [line.split()[0] for line in lines] == list(entries)
    for line, entry in zip(lines, entries.values(), strict=True):
        assert line.endswith(f"  ({entry['origin']})")


@pytest.mark.parametrize("char", ["\x9b", "\u202e", "\u2028"], ids=ascii)
def test_a_value_can_not_move_the_cursor_or_turn_the_text_round(char: str) -> None:
    """What JSON leaves as it is, a terminal might obey."""
    arguments = json.dumps([f"--locale={char}C"])
    done = config("show", INSTANCE_MANAGER_BOOTSTRAP__INITDB_ARGUMENTS=arguments)

    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert f"--locale={char.encode('unicode_escape').decode()}C" in done.stdout


def test_every_key_of_the_schema_is_shown_and_no_other(settings: Path) -> None:
    """So that nothing that may be set is forgotten."""
    schema = json.loads(config("schema").stdout)

    entries = shown("--config", str(settings))

    # Those that only the official image's variables set are no keys of the file.
    assert set(entries) - set(KEYLESS) == set(keys_of(schema, schema))


def test_what_a_catalogue_holds_is_no_key(tmp_path: Path) -> None:
    """The file is named, and not read out."""
    place = tmp_path / "catalogue.yaml"
    place.write_text("{format: 1, images: [{name: thing, image: example/thing}]}")
    entries = shown("--set", f"extensions.catalogue={place}")

    assert entries["extensions.catalogue"]["value"] == str(place)
    assert entries.keys() == shown().keys()
    assert not entries.keys() & set(KEYLESS)


def keys_of(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> list[str]:
    """Return the dotted keys of the schema; those that are described are leaves."""
    if "x-applied" in node:
        return [path.lstrip(".")]
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    found: list[str] = []
    for name, entry in node["properties"].items():
        found += keys_of(schema, entry, f"{path}.{name}")
    return found


PLACES: dict[str, dict[str, Any]] = {
    "a connection string": {
        "postgres": {"parameters": {"primary_conninfo": f"host=a password={SECRET} user=b"}}
    },
    "a quoted password": {
        "postgres": {"parameters": {"primary_conninfo": f"password = '{SECRET} and more'"}}
    },
    "a URI": {
        "postgres": {"parameters": {"primary_conninfo": f"postgresql://u:{SECRET}@host/db"}}
    },
    "a passphrase": {"postgres": {"parameters": {"ssl_passphrase_command": f"echo {SECRET}"}}},
    "an access rule": {
        "postgres": {"hba": [f"host all all 10.0.0.0/8 ldap ldapbindpasswd={SECRET}"]}
    },
    "a volume's variable": {
        "extensions": {"volumes": [{"name": "a", "env": [{"name": "API_TOKEN", "value": SECRET}]}]}
    },
}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_masked_wherever_it_stands(tmp_path: Path, place: str, form: str) -> None:
    """The rest of the value is shown, and so is its origin."""
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(PLACES[place]))
    done = config("show", "--config", str(path), "--output", form)

    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET not in done.stdout
    assert "********" in done.stdout


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_password_of_the_environment_is_masked_with_its_variable_named(form: str) -> None:
    """People see that there is one, and where it comes from."""
    done = config("show", "--output", form, POSTGRES_PASSWORD=SECRET)

    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET not in done.stdout
    [line] = [line for line in done.stdout.splitlines() if "POSTGRES_PASSWORD" in line]
    assert line


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_in_a_file_is_named_and_not_read_out(tmp_path: Path, form: str) -> None:
    """The path is no secret; what it holds is."""
    secret = tmp_path / "token"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    done = config("show", "--output", form, "--set", f"control.token_file={secret}")

    assert (done.returncode, done.stderr) == (0, "")
    assert str(secret) in done.stdout
    assert SECRET not in done.stdout


def test_what_is_shown_is_what_runs(manager: Manager) -> None:
    """The settings that the command reads are those that the manager goes by."""
    manager.settings["postgres"]["parameters"] = {"work_mem": "9MB"}
    manager.trust().start().until_ready()
    entries = json.loads(manager.run("config", "show", "--output", "json").stdout)["items"]
    values = {one["key"]: one["value"] for one in entries}

    assert [(values["postgres.parameters"]["work_mem"],)] == manager.query("SHOW work_mem")
    assert [(str(values["postgres.port"]),)] == manager.query("SHOW port")
    status = manager.status()
    assert status is not None
    assert status["instance"]["name"] == values["instance.name"]


# config schema


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Return what ``config schema`` prints."""
    found: dict[str, Any] = json.loads(config("schema").stdout)
    return found


def examples() -> list[tuple[str, str]]:
    """Return each example of settings in the documentation with the page that it stands on."""
    return [
        (page.name, body)
        for page in PAGES
        for body in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        if "apiVersion:" not in body
    ]


def test_the_schema_is_one(schema: dict[str, Any]) -> None:
    """Of the dialect that it names."""
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)


def test_there_are_examples_to_validate() -> None:
    """Else the next test would say nothing."""
    assert len(examples()) >= 3


@pytest.mark.parametrize(("page", "body"), examples())
def test_the_schema_takes_every_example_of_the_documentation(
    schema: dict[str, Any], page: str, body: str
) -> None:
    """As an editor reads it: YAML whose numbers are numbers."""
    del page
    errors = jsonschema_rs.validator_for(schema).iter_errors(yaml.safe_load(body))

    assert [error.message for error in errors] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"postgres": {"prot": 5432}},
        {"unheard": 1},
        {"failure": "maybe"},
        {"postgres": {"port": 0}},
        {"postgres": {"port": "many"}},
        {"extensions": {"policy": "ignore"}},
        {"postgres": {"hba": "one line"}},
    ],
    ids=json.dumps,
)
def test_what_the_schema_refuses_the_program_refuses(
    schema: dict[str, Any], tmp_path: Path, wrong: dict[str, Any]
) -> None:
    """An editor marks what a start would end on."""
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(wrong))

    assert not jsonschema_rs.validator_for(schema).is_valid(wrong)
    assert config("show", "--config", str(path)).returncode == 78
