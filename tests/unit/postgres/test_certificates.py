"""Files that a server could not serve TLS with are told before it meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from instance_manager.configuration.rendering import render
from instance_manager.postgres.certificates import problems

GOOD = {"ssl": "on", "ssl_ca_file": "root.crt", "ssl_ciphers": "HIGH"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a directory with a pair and an authority, under the names of the defaults."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.crt")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    authority.cert_pem.write_to_path(tmp_path / "root.crt")
    (tmp_path / "server.key").chmod(0o600)
    return tmp_path


def paths(data: Path, **values: str) -> list[str]:
    """Return where something is wrong."""
    found = problems(render(GOOD | values), data)
    return [problem.path.removeprefix("parameters.") for problem in found]


def encrypt(data: Path) -> None:
    """Put a passphrase on the key."""
    path = data / "server.key"
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"x")
        )
    )


def other_key(data: Path) -> None:
    """Put the key of another certificate in its place."""
    trustme.CA().issue_cert("other").private_key_pem.write_to_path(data / "server.key")


def test_files_that_fit_are_no_problem(data: Path) -> None:
    """With names that begin in the data directory, or elsewhere."""
    assert paths(data) == []
    assert paths(data, ssl_cert_file=str(data / "server.crt")) == []


def test_what_serves_no_tls_is_not_looked_at(data: Path) -> None:
    """It may name what it likes."""
    assert paths(data, ssl="off", ssl_cert_file="/nowhere") == []
    assert list(problems(render({"ssl_cert_file": "/nowhere"}), data)) == []


@pytest.mark.parametrize(
    ("spoil", "path"),
    [
        (lambda data: (data / "server.crt").unlink(), "ssl_cert_file"),
        (lambda data: (data / "server.crt").write_text("x"), "ssl_cert_file"),
        (lambda data: (data / "server.key").unlink(), "ssl_key_file"),
        (lambda data: (data / "server.key").chmod(0o644), "ssl_key_file"),
        (encrypt, "ssl_key_file"),
        (other_key, "ssl_cert_file"),
        (lambda data: (data / "root.crt").write_text("x"), "ssl_ca_file"),
        (lambda data: ((data / "root.crt").unlink(), (data / "root.crt").mkdir()), "ssl_ca_file"),
    ],
)
def test_each_file_that_does_not_fit_is_told(
    data: Path, spoil: Callable[[Path], object], path: str
) -> None:
    """By the parameter that names it."""
    spoil(data)

    assert paths(data) == [path]


def test_an_encrypted_key_with_its_command_is_left_to_the_server(data: Path) -> None:
    """The command is the server's to run."""
    encrypt(data)

    assert paths(data, ssl_passphrase_command="echo x") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ssl_ciphers", "NONE-SUCH"),
        ("ssl_crl_file", "no.crl"),
        ("ssl_dh_params_file", "server.crt"),
        ("ssl_cert_file", "a" * 5000),
    ],
)
def test_each_value_that_says_nothing_is_told(data: Path, name: str, value: str) -> None:
    """By its name."""
    assert paths(data, **{name: value}) == [name]
