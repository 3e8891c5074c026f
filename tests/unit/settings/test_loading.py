from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.errors import Exit, Problem, SettingsError
from instance_manager.settings import Check, Settings
from instance_manager.settings.keys import KEYLESS, known_keys
from instance_manager.settings.loading import LoadedSettings, load
from instance_manager.settings.sources import SettingsText

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


FILE = "config.yaml"

# The contract's own example, which names every key with its default.
EXAMPLE = """
instance: {name: null}
failure: stay
postgres:
  bin_directory: null
  data_directory: null
  wal_directory: null
  run_as: postgres
  port: 5432
  listen_addresses: "*"
  socket_directory: /run/postgresql
  parameters: {}
  shared_preload_libraries: []
  allow_alter_system: false
  hba: []
  ident: []
bootstrap:
  superuser: postgres
  superuser_password_file: null
  database: null
  owner: null
  owner_password_file: null
  initdb_arguments: []
  init_directory: /docker-entrypoint-initdb.d
extensions:
  root: /extensions
  policy: quarantine
  inventory: enforce
  volumes: []
databases: []
shutdown: {smart_seconds: 0, fast_seconds: 20, immediate_seconds: 5}
restart: {policy: restart, maximum: 5, window_seconds: 300}
health: {listen: "*:8080", readiness: accepting, maximum_lag_bytes: null, period_seconds: 1}
control:
  socket: /run/instance-manager/control.sock
  group: null
  listen: "127.0.0.1:8000"
  tls: {certificate_file: null, key_file: null, client_ca_file: null}
  token_file: null
configuration: {source: file}
log: {level: info, format: auto}
"""


def load_settings(
    file: str = "",
    environment: Mapping[str, str] | None = None,
    command_line: Mapping[str, str] | None = None,
) -> LoadedSettings:
    """Load from the text of each source."""
    return load(
        SettingsText(
            file_name=FILE if file else "",
            file_text=file,
            environment=environment or {},
            command_line=command_line or {},
        )
    )


def find_problems(
    file: str = "",
    environment: Mapping[str, str] | None = None,
    command_line: Mapping[str, str] | None = None,
) -> list[str]:
    """Return every problem of what can't be loaded, as people read it."""
    try:
        load_settings(file, environment, command_line)
    except SettingsError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_nothing_at_all_gives_the_defaults() -> None:
    """Settings need no source."""
    assert load_settings().settings == Settings()


def test_the_example_names_every_key_with_its_default() -> None:
    """What is documented as the default is the default, and each key is documented."""
    loaded = load_settings(EXAMPLE)

    assert loaded.settings == Settings()
    # Keys whose example is null are not set; all others were read from the file.
    nulls = {key for key, origin in loaded.origins.items() if str(origin) == "default"} - set(
        KEYLESS
    )
    assert nulls == {
        "instance.name",
        "postgres.bin_directory",
        "postgres.data_directory",
        "postgres.wal_directory",
        "bootstrap.superuser_password_file",
        "bootstrap.database",
        "bootstrap.owner",
        "bootstrap.owner_password_file",
        "extensions.catalogue",
        "health.maximum_lag_bytes",
        "control.group",
        "control.tls.certificate_file",
        "control.tls.key_file",
        "control.tls.client_ca_file",
        "control.token_file",
    }


def test_settings_are_frozen() -> None:
    """What was loaded stays what it is."""
    settings = load_settings().settings

    with pytest.raises(ValueError, match="frozen"):
        settings.postgres.__setattr__("port", 1)


def test_each_source_is_stronger_than_the_next() -> None:
    """Command line, our variables, file, the official image's variables, defaults."""
    image = {"PGPORT": "1"}
    file = "postgres: {port: 2}"
    ours = {"INSTANCE_MANAGER_POSTGRES__PORT": "3"}
    line = {"postgres.port": "4"}

    ports = [
        load_settings().settings.postgres.port,
        load_settings("", image).settings.postgres.port,
        load_settings(file, image).settings.postgres.port,
        load_settings(file, image | ours).settings.postgres.port,
        load_settings(file, image | ours, line).settings.postgres.port,
    ]

    assert ports == [5432, 1, 2, 3, 4]


def test_every_key_knows_where_its_value_comes_from() -> None:
    """Origins name the variable, or the file and the line."""
    loaded = load_settings(
        "postgres:\n  port: 2\n  hba:\n    - local all all peer\n",
        {"PGDATA": "/data", "INSTANCE_MANAGER_LOG__LEVEL": "debug"},
        {"failure": "exit"},
    )
    origins = {key: str(origin) for key, origin in loaded.origins.items()}

    assert origins["postgres.port"] == "config.yaml, line 2"
    assert origins["postgres.hba"] == "config.yaml, line 4"
    assert origins["postgres.data_directory"] == "PGDATA"
    assert origins["log.level"] == "INSTANCE_MANAGER_LOG__LEVEL"
    assert origins["failure"] == "command line"
    assert origins["instance.name"] == "default"
    assert set(origins) == {*known_keys(), *KEYLESS}


def test_a_list_or_map_is_one_value() -> None:
    """The stronger source gives all of a map; nothing is mixed in from a weaker one."""
    loaded = load_settings(
        "postgres: {parameters: {work_mem: 4MB, fsync: on}}",
        {"INSTANCE_MANAGER_POSTGRES__PARAMETERS": '{"work_mem": "8MB"}'},
    )

    assert loaded.settings.postgres.parameters == {"work_mem": "8MB"}


def test_values_mean_what_they_say() -> None:
    """Parameters are text, whatever YAML or JSON would make of them."""
    file = "{archive_mode: on, log_file_mode: 0600, version: 1.10, none: null, word: 'null'}"
    in_json = '{"archive_mode": true, "b": false, "n": 1.10, "e": 1E5, "x": null, "w": "true"}'

    from_file = load_settings(f"postgres: {{parameters: {file}}}")
    from_variable = load_settings("", {"INSTANCE_MANAGER_POSTGRES__PARAMETERS": in_json})

    assert from_file.settings.postgres.parameters == {
        "archive_mode": "on",
        "log_file_mode": "0600",
        "version": "1.10",
        "word": "null",
    }
    assert from_variable.settings.postgres.parameters == {
        "archive_mode": "on",
        "b": "off",
        "n": "1.10",
        "e": "1E5",
        "w": "true",
    }


def test_null_leaves_a_key_to_weaker_sources() -> None:
    """Not set is not a value, whichever source says it."""
    assert load_settings("postgres: {port: null}", {"PGPORT": "1"}).settings.postgres.port == 1
    assert load_settings("postgres:\n", {"PGPORT": "1"}).settings.postgres.port == 1
    assert (
        load_settings("postgres: {port: 2}", {}, {"postgres.port": ""}).settings.postgres.port == 2
    )


@pytest.mark.parametrize(
    ("file", "environment"),
    [
        ("control: {listen: null}", {}),
        ("control:\n  listen:\n", {}),
        ("", {"INSTANCE_MANAGER_CONTROL__LISTEN": ""}),
        ("", {"INSTANCE_MANAGER_CONTROL__LISTEN": "null"}),
        ("control: {listen: '0.0.0.0:1'}", {"INSTANCE_MANAGER_CONTROL__LISTEN": "~"}),
    ],
)
def test_null_switches_the_tcp_control_listener_off(
    file: str, environment: dict[str, str]
) -> None:
    """Where a key has a default and can be off, null says so."""
    assert load_settings(file, environment).settings.control.listen is None


@pytest.mark.parametrize("word", ["on", "true", "yes", "1", "True", "ON"])
def test_switches_take_the_words_of_the_server(word: str) -> None:
    """A boolean is what Postgres and YAML call one."""
    loaded = load_settings(f"postgres: {{allow_alter_system: {word}}}")

    assert loaded.settings.postgres.allow_alter_system is True


def test_lists_of_maps_become_models() -> None:
    """Volumes and databases are typed to the last field."""
    settings = load_settings(
        """
        extensions:
          volumes:
            - name: pgvector
              required: true
            - {name: postgis, ld_library_path: [system], env: [{name: PROJ_DATA, value: x}]}
        databases:
          - {name: app, extensions: [{name: vector, version: 0.10, schema: ext, cascade: yes}]}
        """
    ).settings

    first, second = settings.extensions.volumes
    assert (first.name, first.required, first.extension_control_path) == ("pgvector", True, None)
    assert second.ld_library_path == ("system",)
    assert [(it.name, it.value) for it in second.env] == [("PROJ_DATA", "x")]
    (wanted,) = settings.databases[0].extensions
    assert (wanted.name, wanted.version, wanted.schema_name) == ("vector", "0.10", "ext")
    assert (wanted.ensure, wanted.cascade) == ("present", True)


def test_paths_are_paths() -> None:
    """Paths arrive ready for use."""
    settings = load_settings("", {"PGDATA": "/a/../b"}).settings

    assert settings.postgres.data_directory == Path("/a/../b")


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("postgres: {prot: 1}", "postgres.prot: unknown key; did you mean 'postgres.port'?"),
        ("failur_: exit", "failur_: unknown key; did you mean 'failure'?"),
        ("port: 1", "port: unknown key; did you mean 'postgres.port'?"),
        (
            "control: {tls: {key: /k}}",
            "control.tls.key: unknown key; did you mean 'control.tls.key_file'?",
        ),
        (
            "bootstrap: {superuser_password: hunter2}",
            (
                "bootstrap.superuser_password: unknown key; did you mean"
                " 'bootstrap.superuser_password_file'?"
            ),
        ),
        ("'postgres.port': 1", "postgres.port: unknown key; did you mean 'postgres.port'?"),
        (
            "extensions: {volumes: [{nme: a}]}",
            "extensions.volumes.0.nme: unknown key; did you mean 'extensions.volumes.0.name'?",
        ),
        (
            "databases: [{name: a, extensions: [{name: b, schemas: c}]}]",
            (
                "databases.0.extensions.0.schemas: unknown key; did you mean"
                " 'databases.0.extensions.0.schema'?"
            ),
        ),
        ("log: {xyzzy: 1}", "log.xyzzy: unknown key; known here: level, format"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_key(file: str, problem: str) -> None:
    """A slip is told with what was probably meant, at any depth."""
    assert f"{problem} (config.yaml, line 1)" in find_problems(file)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("postgers.port", "postgres"),
        ("postgres.parameters.work_mem", "postgres.parameters"),
        ("control.tls.cert_file", "control.tls.certificate_file"),
        ("posgres.hba.x.y", "postgres"),
    ],
)
def test_an_unknown_key_of_the_command_line_is_told_likewise(key: str, meant: str) -> None:
    """Also where the path goes wrong before its last part."""
    assert find_problems("", {}, {key: "1"}) == [
        f"{key}: unknown key; did you mean {meant!r}? (command line)"
    ]


@pytest.mark.parametrize("key", sorted(KEYLESS))
def test_what_only_the_image_sets_is_no_key(key: str) -> None:
    """No file, variable of ours or command line gives a password in the open."""
    section, name = key.split(".")
    variable = f"INSTANCE_MANAGER_{section}__{name}".upper()

    assert len(find_problems(f"{section}: {{{name}: trust}}")) == 1
    assert len(find_problems("", {variable: "trust"})) == 1
    assert len(find_problems("", {}, {key: "trust"})) == 1


ADDRESS_FORM = "write HOST:PORT, such as '*:8080', '127.0.0.1:8000' or '[::1]:8000'"


@pytest.mark.parametrize(
    ("section", "entry", "problem"),
    [
        ("postgres", "port: abc", "port: must be a whole number, not 'abc'"),
        ("postgres", "port: 0", "port: must be at least 1, not '0'"),
        ("postgres", "port: 65536", "port: must be at most 65535, not '65536'"),
        ("postgres", "port: [1]", "port: must be a whole number, not a list"),
        ("postgres", "parameters: [a]", "parameters: must be a map of names to text, not a list"),
        ("postgres", "parameters: {a: [b]}", "parameters.a: must be text, not a list"),
        ("postgres", "hba: x", "hba: must be a list, not 'x'"),
        ("postgres", "hba: [null]", "hba.0: must be text, not nothing"),
        ("postgres", "wal_directory: wal", "wal_directory: must be an absolute path, not 'wal'"),
        ("postgres", "allow_alter_system: x", "allow_alter_system: must be on or off, not 'x'"),
        ("shutdown", "fast_seconds: soon", "fast_seconds: must be a number, not 'soon'"),
        ("shutdown", "fast_seconds: -1", "fast_seconds: must be at least 0, not '-1'"),
        ("shutdown", "fast_seconds: nan", "fast_seconds: must be a finite number, not 'nan'"),
        ("restart", "window_seconds: 0", "window_seconds: must be more than 0, not '0'"),
        ("extensions", "volumes: [a]", "volumes.0: must be a map of keys, not 'a'"),
        ("extensions", "volumes: [{}]", "volumes.0.name: is not given"),
        ("extensions", "root: '/a:b'", "root: must not hold a colon: '/a:b'"),
        ("bootstrap", "database: ''", "database: must be a name of 1 to 63 bytes, not ''"),
        ("bootstrap", 'owner: "a\\nb"', "owner: must be a name of 1 to 63 bytes, not 'a\\nb'"),
        ("health", "listen: 8080", f"listen: must be an address, not '8080': {ADDRESS_FORM}"),
        ("log", "level: loud", "level: must be 'debug', 'info', 'warning' or 'error', not 'loud'"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_expected(
    section: str, entry: str, problem: str
) -> None:
    """The sentence names the key, the rule, the value and the place."""
    assert find_problems(f"{section}: {{{entry}}}") == [f"{section}.{problem} ({FILE}, line 1)"]


def test_a_section_must_be_a_map() -> None:
    """A value in the place of a section is told as such."""
    assert find_problems("postgres: 5432") == [
        "postgres: must be a map of keys, not '5432' (config.yaml, line 1)"
    ]


def test_a_role_can_not_have_a_name_that_postgres_keeps() -> None:
    """Initdb and CREATE ROLE refuse names that begin with pg_."""
    (problem,) = find_problems("bootstrap: {superuser: pg_x}")

    assert "must not begin with pg_" in problem


def test_a_path_holds_no_line_break() -> None:
    """Paths stand in files of one line each."""
    (problem,) = find_problems('postgres: {data_directory: "/a\\nb"}')

    assert "must be an absolute path without control characters" in problem


def test_a_name_is_counted_in_bytes() -> None:
    """The server cuts a longer name in silence."""
    assert find_problems(f"bootstrap: {{owner: {'ä' * 31}a}}") == []
    assert "63 bytes" in find_problems(f"bootstrap: {{owner: {'ä' * 32}}}")[0]


def test_a_long_value_is_shown_shortened() -> None:
    """A message stays a line that people can read."""
    (problem,) = find_problems(f"failure: {'x' * 10_000}")

    assert len(problem) < 200


def test_a_secret_in_the_place_of_its_file_is_not_shown() -> None:
    """People write the password where its file is asked for."""
    (problem,) = find_problems("control: {token_file: s3cr3t}")

    assert "s3cr3t" not in problem
    assert "must be the absolute path of a file" in problem


def test_all_problems_of_all_sources_come_at_once() -> None:
    """One start tells everything, in the file, the environment and the command line."""
    problems = find_problems(
        "postgres: {port: x, prot: 1}\nfailure: die\nfailure: stay\n",
        {"INSTANCE_MANAGER_LOG__LEVEL": "loud", "INSTANCE_MANAGER_A__B": "", "PGDATA": "data"},
        {"restart.maximum": "-1", "nothing": "1"},
    )

    assert sorted(problem.split(":")[0] for problem in problems) == [
        "INSTANCE_MANAGER_A__B",
        "failure",
        "failure",
        "log.level",
        "nothing",
        "postgres.data_directory",
        "postgres.port",
        "postgres.prot",
        "restart.maximum",
    ]


def test_an_error_of_settings_has_the_exit_code_of_settings() -> None:
    """Invalid settings end the program with 78."""
    with pytest.raises(SettingsError) as caught:
        load(SettingsText(command_line={"a": "b"}))

    assert caught.value.exit_code == Exit.SETTINGS == 78


def test_problems_of_reading_are_told_with_the_others() -> None:
    """A file that could not be read does not hide what the environment says."""
    text = SettingsText(
        environment={"INSTANCE_MANAGER_FAILURE": "die"},
        problems=(Problem("", "cannot read settings file '/x': Permission denied"),),
    )

    with pytest.raises(SettingsError) as caught:
        load(text)

    assert [problem.path for problem in caught.value.problems] == ["", "failure"]


def odd_port(settings: Settings) -> Iterator[Problem]:
    """Find an odd port, as a room above might."""
    if settings.postgres.port % 2:
        yield Problem("postgres.port", "is odd")


def test_rooms_above_can_add_checks() -> None:
    """A check's problem is told like any other, with the place of its key."""
    text = SettingsText(file_name="f", file_text="postgres:\n  port: 1\nlog: {level: loud}")

    with pytest.raises(SettingsError) as caught:
        load(text, [Check(("postgres.port",), odd_port)])

    assert [str(problem) for problem in caught.value.problems] == [
        "log.level: must be 'debug', 'info', 'warning' or 'error', not 'loud' (f, line 3)",
        "postgres.port: is odd (f, line 2)",
    ]


@pytest.mark.parametrize("file", ["postgres: {port: x}", "a: [", "postgres: 1"])
def test_a_check_is_silent_where_its_keys_are_wrong_or_unread(file: str) -> None:
    """A default in the place of a value that could not be read proves nothing."""
    text = SettingsText(file_name="f", file_text=file)

    with pytest.raises(SettingsError) as caught:
        load(text, [Check(("postgres.port",), lambda _: iter([Problem("", "never")]))])

    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("file", "environment", "where"),
    [
        ("postgres:\n  hba:\n  - a\n  - [b]\n", {}, "config.yaml, line 4"),
        (
            "postgres:\n  hba:\n  - a\n  - [b]\n",
            {"INSTANCE_MANAGER_POSTGRES__HBA": '["a", ["b"]]'},
            "INSTANCE_MANAGER_POSTGRES__HBA",
        ),
    ],
)
def test_a_problem_in_a_list_names_the_source_that_won(
    file: str, environment: dict[str, str], where: str
) -> None:
    """A line of the file is not blamed for what a variable said instead."""
    assert find_problems(file, environment) == [
        f"postgres.hba.1: must be text, not a list ({where})"
    ]


@pytest.mark.parametrize("text", ["a\0b", "a\udcffb"])
def test_text_that_nothing_could_carry_is_refused(text: str) -> None:
    """NUL characters and bytes that are no UTF-8 reach no parameter and no path."""
    in_json = json.dumps({"p": text})

    assert "must not hold" in find_problems("", {"INSTANCE_MANAGER_INSTANCE__NAME": text})[0]
    assert (
        "must not hold" in find_problems("", {"INSTANCE_MANAGER_POSTGRES__PARAMETERS": in_json})[0]
    )
    assert "must not hold" in find_problems("", {"POSTGRES_USER": text})[0]
    assert "must not hold" in find_problems("", {}, {"instance.name": text})[0]


@given(
    st.dictionaries(
        st.sampled_from(sorted(known_keys())),
        st.text(max_size=8)
        | st.sampled_from(["1", "on", "/a", "[]", "{}", "*:1", "null", '["a"]']),
        max_size=6,
    )
)
def test_any_text_of_any_key_is_settings_or_problems(values: dict[str, str]) -> None:
    """No value makes loading fail in another way."""
    try:
        loaded = load(SettingsText(command_line=values))
    except SettingsError:
        return

    assert isinstance(loaded.settings, Settings)
