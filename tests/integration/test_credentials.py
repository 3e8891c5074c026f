"""The control listener over TCP: token, TLS, and what is refused at the start."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from tests.support.manager import Manager, until


def owned(path: Path, content: bytes) -> str:
    """Write a file that only the account of postgres can read; return its path."""
    path.write_bytes(content)
    path.chmod(0o400)
    status = path.parent.stat()
    os.chown(path, status.st_uid, status.st_gid)
    return str(path)


def test_without_a_token_loopback_reads_and_does_not_write(manager: Manager) -> None:
    """Status may be read by a browser of this host, and nothing may be changed by one."""
    manager.trust().start().until_ready()
    where = ("127.0.0.1", manager.control_port)
    with closing(http.client.HTTPConnection(*where, timeout=60)) as connection:
        connection.request("GET", "/v1/status")
        assert json.loads(connection.getresponse().read())["phase"] == "running"
        connection.request("POST", "/v1/postgres/stop")
        refused = connection.getresponse()
        assert refused.status == 403
        assert json.loads(refused.read())["code"]

        connection.request("GET", "/v1/status", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 403


def test_tls_and_a_token_open_everything_to_their_bearer(manager: Manager) -> None:
    """With a certificate and a token, the API is served over TLS 1.3 to who has the token."""
    authority = trustme.CA()
    pair = authority.issue_cert("localhost")
    manager.settings["control"] |= {
        "tls": {
            "certificate_file": owned(
                manager.directory / "c.pem", pair.cert_chain_pems[0].bytes()
            ),
            "key_file": owned(manager.directory / "k.pem", pair.private_key_pem.bytes()),
        },
        "token_file": owned(manager.directory / "token", b"the token of the test\n"),
    }
    manager.trust().start().until_ready()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    where = ("localhost", manager.control_port)
    with closing(http.client.HTTPSConnection(*where, timeout=60, context=context)) as connection:
        connection.request("GET", "/v1/status")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
        answer.read()
        headers = {"Authorization": "Bearer the token of the test", "Prefer": "wait=60"}
        connection.request("POST", "/v1/postgres/reload", headers=headers)
        assert json.loads(connection.getresponse().read())["state"] == "succeeded"
        assert isinstance(connection.sock, ssl.SSLSocket)
        assert connection.sock.version() == "TLSv1.3"

    assert "the token of the test" not in manager.logged()


@pytest.mark.parametrize("mode", [0o644, 0o404])
def test_a_secret_that_others_can_read_is_refused(manager: Manager, mode: int) -> None:
    """A readable token file is a matter of settings, and is named."""
    path = owned(manager.directory / "token", b"token\n")
    Path(path).chmod(mode)
    manager.settings["control"]["token_file"] = path
    manager.start()

    assert manager.wait() == 78
    assert "control.token_file" in manager.logged()
    assert not manager.data.exists() or not any(manager.data.iterdir())


def test_a_broken_pair_is_refused_before_anything_is_touched(manager: Manager) -> None:
    """Key and certificate that don't belong together end with 78."""
    one, other = trustme.CA().issue_cert("localhost"), trustme.CA().issue_cert("localhost")
    manager.settings["control"]["tls"] = {
        "certificate_file": owned(manager.directory / "c.pem", one.cert_chain_pems[0].bytes()),
        "key_file": owned(manager.directory / "k.pem", other.private_key_pem.bytes()),
    }
    manager.settings["control"]["token_file"] = owned(manager.directory / "token", b"token\n")
    manager.start()

    assert manager.wait() == 78
    assert "control.tls.certificate_file" in manager.logged()


def test_an_address_that_others_reach_needs_tls_and_a_way_to_authenticate(
    manager: Manager,
) -> None:
    """The refusal says what to set."""
    manager.settings["control"]["listen"] = f"0.0.0.0:{manager.control_port}"
    manager.start()

    assert manager.wait() == 78
    assert "control.tls" in manager.logged()


def test_a_blocked_standard_output_stops_neither_postgres_nor_the_manager(
    manager: Manager,
) -> None:
    """With a pipe that nobody reads, queries go on, drops are counted, and TERM ends it."""
    manager.write_settings()
    manager.trust()
    reading, writing = os.pipe()
    try:
        manager.start(output=writing)
        os.close(writing)
        manager.until_ready()
        with manager.sql() as connection:
            for _ in range(40):
                connection.execute(
                    "DO $$ BEGIN FOR i IN 1..500 LOOP RAISE LOG '%', repeat('x', 900);"
                    " END LOOP; END $$"
                )

        def dropped() -> bool:
            _, text = manager.probe("metrics")
            lines = [line for line in text.splitlines() if "dropped" in line and line[0] != "#"]
            return any(float(line.split()[-1]) > 0 for line in lines)

        until(dropped, "drops are counted")
        assert manager.end() == 0
    finally:
        os.close(reading)


def test_secrets_of_changed_parameters_are_in_the_servers_log_alone(manager: Manager) -> None:
    """The postmaster tells each new value; who only reads the status does not see it."""
    manager.settings["restart"] = {"maximum": 0}
    manager.trust().start().until_ready()
    manager.settings["postgres"]["parameters"] = {
        "primary_conninfo": "host=primary user=replicator password=hunter2",
        "restore_command": 'curl -u "robot:hunter2" "https://archive/%f" -o "%p"',
    }
    manager.write_settings()
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)
    until(lambda: manager.logged().count("hunter2") >= 2, "postgres tells both values")
    good = manager.data / "instance-manager" / "last-good.json"
    # Else the one before is what the end of the server would be answered with.
    until(lambda: good.exists() and "robot" in good.read_text(), "it is kept as one that works")
    os.kill(manager.until_phase("running")["postgres"]["pid"], signal.SIGKILL)
    failure = manager.until_phase("failed")["failure"]

    assert 'LOG: parameter "primary_conninfo" changed to "…"' in failure["log"]
    assert 'LOG: parameter "restore_command" changed to "…"' in failure["log"]
    where = ("127.0.0.1", manager.control_port)
    with closing(http.client.HTTPConnection(*where, timeout=60)) as connection:
        for path in ("/v1/status", "/v1/events"):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200, path
            assert b"hunter2" not in answer.read(), path
