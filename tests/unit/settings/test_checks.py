from __future__ import annotations

import pytest

from instance_manager.errors import SettingsError
from instance_manager.settings.loading import load
from instance_manager.settings.sources import SettingsText


def problems_of(file: str) -> list[str]:
    """Return what is wrong with a file, as people read it."""
    try:
        load(SettingsText(file_name="f", file_text=file))
    except SettingsError as error:
        return [str(problem) for problem in error.problems]
    return []


def control(listen: str, **keys: str) -> str:
    """Write a control section; keys of TLS begin with ``tls_``."""
    tls = ", ".join(f"{name[4:]}: {value}" for name, value in keys.items() if name[:4] == "tls_")
    others = "".join(f", {name}: {value}" for name, value in keys.items() if name[:4] != "tls_")
    return f"control: {{listen: '{listen}', tls: {{{tls}}}{others}}}"


@pytest.mark.parametrize(
    "listen", ["*:8000", "0.0.0.0:8000", "[::]:8000", "10.0.0.1:8000", "pg:1"]
)
def test_a_control_address_for_others_needs_tls_and_authentication(listen: str) -> None:
    """The sentence says which keys to set, and the other way out."""
    (problem,) = problems_of(control(listen))

    assert problem.startswith(f"control.listen: cannot listen on '{listen}' without TLS and a way")
    assert (
        "set control.tls.certificate_file and control.tls.key_file"
        " and control.token_file or control.tls.client_ca_file" in problem
    )
    assert f"or listen on loopback ('127.0.0.1:{listen.rpartition(':')[2]}')" in problem


@pytest.mark.parametrize("listen", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_a_control_address_on_loopback_needs_nothing(listen: str) -> None:
    """Only this host reaches it."""
    assert problems_of(control(listen)) == []


def test_only_what_is_missing_is_named() -> None:
    """Somebody who has TLS is told to add authentication, and the other way round."""
    (no_authentication,) = problems_of(
        control("*:1", tls_certificate_file="/c", tls_key_file="/k")
    )
    (no_tls,) = problems_of(control("*:1", token_file="/t"))

    assert "set control.token_file or control.tls.client_ca_file, or" in no_authentication
    assert "set control.tls.certificate_file and control.tls.key_file, or" in no_tls


@pytest.mark.parametrize("way", [{"token_file": "/t"}, {"tls_client_ca_file": "/ca"}])
def test_tls_and_either_way_to_authenticate_suffice(way: dict[str, str]) -> None:
    """A token or client certificates open an address to others."""
    text = control("*:8000", tls_certificate_file="/c", tls_key_file="/k", **way)

    assert problems_of(text) == []


@pytest.mark.parametrize(
    ("keys", "path", "missing"),
    [
        ({"tls_certificate_file": "/c"}, "certificate_file", "key_file"),
        ({"tls_key_file": "/k"}, "key_file", "certificate_file"),
        ({"tls_client_ca_file": "/a"}, "client_ca_file", "certificate_file"),
    ],
)
def test_half_of_tls_is_told_what_the_other_half_is(
    keys: dict[str, str], path: str, missing: str
) -> None:
    """A certificate needs its key, a key its certificate, an authority both."""
    assert problems_of(control("127.0.0.1:8000", **keys)) == [
        f"control.tls.{path}: is of no use without control.tls.{missing} (f, line 1)"
    ]


def test_a_password_needs_its_owner() -> None:
    """A password of nobody is a slip."""
    assert problems_of("bootstrap: {owner_password_file: /p}") == [
        "bootstrap.owner_password_file: is of no use without bootstrap.owner (f, line 1)"
    ]
    assert problems_of("bootstrap: {owner_password_file: /p, owner: app}") == []


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("postgres: {port: 8080}", "health.listen"),
        ("postgres: {port: 8000}", "control.listen"),
        ("health: {listen: '*:8000'}", "control.listen"),
        ("health: {listen: '0.0.0.0:8000'}", "control.listen"),
        ("health: {listen: '127.0.0.1:8000'}", "control.listen"),
    ],
)
def test_two_listeners_of_one_port_are_refused(file: str, key: str) -> None:
    """Else the second one would find the port in use, far from the reason."""
    (problem,) = problems_of(file)

    assert problem.startswith(f"{key}: port ")


@pytest.mark.parametrize(
    "file",
    [
        "health: {listen: '127.0.0.2:8000'}",
        "postgres: {port: 8080, listen_addresses: ''}",
        "{health: {listen: '*:8000'}, control: {listen: null}}",
    ],
)
def test_listeners_that_do_not_meet_are_fine(file: str) -> None:
    """Other addresses, no TCP at all, or no listener: nothing collides."""
    assert problems_of(file) == []


def test_socket_paths_fit_into_a_socket_address() -> None:
    """The kernel takes 107 bytes; postgres adds its own name to the directory."""
    directory = "/" + "d" * (107 - len("//.s.PGSQL.5432"))

    assert problems_of(f"postgres: {{socket_directory: {directory}}}") == []
    assert "has 108" in problems_of(f"postgres: {{socket_directory: {directory}d}}")[0]
    assert problems_of(f"control: {{socket: /{'s' * 106}}}") == []
    assert "at most 107 bytes" in problems_of(f"control: {{socket: /{'s' * 107}}}")[0]


@pytest.mark.parametrize(
    ("file", "path", "name"),
    [
        ("extensions: {volumes: [{name: a}, {name: b}, {name: a}]}", "extensions.volumes.2", "a"),
        ("databases: [{name: a}, {name: a}]", "databases.1", "a"),
        (
            "databases: [{name: a, extensions: [{name: x}, {name: x}]}]",
            "databases.0.extensions.1",
            "x",
        ),
        (
            "extensions: {volumes: [{name: a, env: [{name: X, value: 1}, {name: X, value: 2}]}]}",
            "extensions.volumes.0.env.1",
            "X",
        ),
    ],
)
def test_a_name_listed_twice_is_refused(file: str, path: str, name: str) -> None:
    """One of the two would be ignored in silence."""
    assert problems_of(file) == [f"{path}.name: {name!r} is listed twice (f, line 1)"]


@pytest.mark.parametrize("name", ["a:b", "UPPER", "../x", "", "x" * 60])
def test_the_name_of_a_volume_is_not_judged_here(name: str) -> None:
    """A bad name is a finding about a volume: the rest of the server can start."""
    assert problems_of(f"extensions: {{volumes: [{{name: '{name}'}}]}}") == []


def test_a_reserved_variable_of_a_volume_is_refused() -> None:
    """A volume can't steer the server through its environment."""
    assert problems_of("extensions: {volumes: [{name: a, env: [{name: PATH, value: x}]}]}") == [
        (
            "extensions.volumes.0.env.0.name: 'PATH' is reserved and can't be set by a volume;"
            " use bin_path (f, line 1)"
        )
    ]
