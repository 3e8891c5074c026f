"""Who may ask, on real sockets: peer credentials, token, certificates, and the Host rule."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from instance_manager.api.authentication import read_peer
from instance_manager.api.server import Credentials
from instance_manager.api.tls import Contexts, server_context
from instance_manager.client import Client, RefusedError, UnreachableError, client_context
from instance_manager.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.api.conftest import Serving

TOKEN = Credentials(token=lambda: "hunter2")
READINGS = ["/v1/status", "/v1/events", "/v1/extensions", "/v1/extensions/pgvector"]
GUARDED = [
    ("GET", "/v1/operations"),
    ("GET", "/v1/operations/op-1"),
    ("DELETE", "/v1/operations/op-1"),
    ("POST", "/v1/postgres/stop"),
    ("GET", "/livez"),
    ("GET", "/metrics"),
]

ASK = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
print(connection.recv(65536).split()[1].decode())
"""


def test_a_peer_is_who_the_kernel_says() -> None:
    """Process, user and groups of the other end."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        peer = read_peer(one)

    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.groups == {os.getegid(), *os.getgroups()}


async def test_the_managers_own_user_may_do_everything(serving: Serving) -> None:
    """Whoever runs the manager owns it anyway."""
    async with serving() as served:
        served.instance.release.set()
        answers = [await served.ask("GET", path) for path in READINGS]
        answers += [await served.ask("POST", "/v1/postgres/stop")]
        answers += [await served.ask("GET", "/v1/operations"), await served.ask("GET", "/metrics")]

    assert {answer.status for answer in answers} == {200}


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Yield a directory that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


if os.geteuid() == 0:  # another user can be had by root only; a skip would say nothing more

    @pytest.mark.parametrize(
        ("uid", "groups", "status"),
        [
            (0, "4243", "200"),
            (65534, "4243", "403"),
            (65534, "4242", "200"),
            (65534, "4241,4242,4243", "200"),
        ],
    )
    async def test_another_user_needs_the_group(
        serving: Serving, open_directory: Path, uid: int, groups: str, status: str
    ) -> None:
        """Root passes, members of the group pass, anyone else is refused."""
        setpriv = shutil.which("setpriv") or "setpriv"
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"
        command = [setpriv, f"--reuid={uid}", "--regid=65534", f"--groups={groups}"]
        async with serving(Credentials(group=4242), directory=open_directory) as served:
            served.socket.chmod(0o666)
            child = await asyncio.to_thread(
                subprocess.run,
                [*command, python, "-c", ASK, str(served.socket)],
                check=True,
                capture_output=True,
                text=True,
                timeout=60,
            )

        assert child.stdout.strip() == status


@pytest.mark.parametrize("path", READINGS)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000"])
async def test_loopback_without_a_token_serves_readings(
    serving: Serving, path: str, host: str
) -> None:
    """Status, events and extensions, and HEAD of them."""
    async with serving() as served:
        for method in ("GET", "HEAD"):
            answer = await served.ask(
                method, path, port=served.control_port, headers={"Host": host}
            )

            assert answer.status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "10.0.0.1", ""])
async def test_loopback_without_a_token_serves_no_other_host(serving: Serving, host: str) -> None:
    """A page whose name resolves to 127.0.0.1 learns nothing, not even what exists."""
    async with serving() as served:
        for path in ("/v1/status", "/v1/nothing"):
            answer = await served.ask(
                "GET", path, port=served.control_port, headers={"Host": host}
            )

            assert (answer.status, json.loads(answer.body)["code"]) == (403, "forbidden")


async def test_a_request_without_a_host_is_not_served(serving: Serving) -> None:
    """HTTP/1.0 does not need one, but we do."""
    async with serving() as served:
        raw = await served.raw(b"GET /v1/status HTTP/1.0\r\n\r\n", port=served.control_port)

    assert b" 403 " in raw.partition(b"\r\n")[0]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_loopback_without_a_token_allows_nothing_else(
    serving: Serving, method: str, path: str
) -> None:
    """403, with what to set; a token that nobody has set does not help."""
    async with serving() as served:
        for headers in ({}, {"Authorization": "Bearer hunter2"}):
            answer = await served.ask(method, path, port=served.control_port, headers=headers)

            assert answer.status == 403
            assert "control.token_file" in json.loads(answer.body)["hint"]
        assert served.instance.calls == []


@pytest.mark.parametrize(
    ("method", "path"), [*GUARDED, *(("GET", path) for path in READINGS), ("GET", "/nothing")]
)
@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Bearer ", "Basic aHVudGVyMg==", "Bearer caf\xe9"]
)
async def test_with_a_token_everything_needs_it(
    serving: Serving, method: str, path: str, authorization: str | None
) -> None:
    """401 without or with a wrong one, on loopback too, and whether or not the path exists."""
    async with serving(TOKEN) as served:
        headers = {"Authorization": authorization} if authorization is not None else {}
        answer = await served.ask(method, path, port=served.control_port, headers=headers)

        assert (answer.status, json.loads(answer.body)["code"]) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="instance-manager"')
        assert served.instance.calls == []


async def test_the_token_opens_everything(serving: Serving) -> None:
    """Whatever the Host header says: a browser does not know the token."""
    headers = {"Authorization": "Bearer hunter2", "Host": "pg-0.example"}
    async with serving(TOKEN) as served:
        served.instance.release.set()
        for path in READINGS:
            answer = await served.ask("GET", path, port=served.control_port, headers=headers)
            assert answer.status == 200
        answer = await served.ask(
            "POST", "/v1/postgres/stop", port=served.control_port, headers=headers
        )

        assert answer.status == 200
        assert served.instance.events.recent()[0].actor == "token from 127.0.0.1"


async def test_the_token_may_change_while_serving(serving: Serving) -> None:
    """The next request is judged by the new one, on the same listener."""
    tokens = ["old"]
    async with serving(Credentials(token=lambda: tokens[-1])) as served:
        statuses = []
        for new in ("old", "new"):
            tokens.append(new)
            for given in ("old", "new"):
                answer = await served.ask(
                    "GET",
                    "/v1/status",
                    port=served.control_port,
                    headers={"Authorization": f"Bearer {given}"},
                )
                statuses.append(answer.status)

    assert statuses == [200, 401, 401, 200]


async def test_an_empty_token_opens_nothing(serving: Serving) -> None:
    """A file that was emptied by mistake shuts the door."""
    async with serving(Credentials(token=str)) as served:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer x"}):
            answer = await served.ask(
                "GET", "/v1/status", port=served.control_port, headers=headers
            )

            assert answer.status == 401


async def test_a_listener_for_everyone_is_never_open(serving: Serving) -> None:
    """Settings refuse it; if they ever did not, it would still be shut."""
    async with serving(host="0.0.0.0") as served:
        answer = await served.ask("GET", "/v1/status", port=served.control_port)

    assert answer.status == 401


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority that signs for servers and clients."""
    return trustme.CA()


def _pair(directory: Path, authority: trustme.CA, name: str) -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    issued = authority.issue_cert(name, key_type=trustme.KeyType.ECDSA)
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return certificate, key


def _authority_file(directory: Path, authority: trustme.CA, name: str = "ca") -> Path:
    path = directory / f"{name}.crt"
    authority.cert_pem.write_to_path(path)
    return path


async def test_a_token_over_tls(serving: Serving, tmp_path: Path, authority: trustme.CA) -> None:
    """TLS 1.3, the server proven by its certificate, the client by its token."""
    tls = server_context(*_pair(tmp_path, authority, "localhost"))
    trust = client_context(ca_file=_authority_file(tmp_path, authority))
    async with serving(Credentials(tls=Contexts(tls), token=lambda: "hunter2")) as served:
        url = f"https://localhost:{served.control_port}"
        async with Client.tcp(url, token="hunter2", tls=trust) as client:
            status = await client.status()
        async with Client.tcp(url, token="wrong", tls=trust) as client:
            with pytest.raises(RefusedError, match="the token is wrong"):
                await client.status()

    assert status.instance.name == "pg-0"


async def test_a_client_certificate_opens_everything(
    serving: Serving, tmp_path: Path, authority: trustme.CA
) -> None:
    """And names its bearer in the events; without it, loopback is no excuse."""
    ca_file = _authority_file(tmp_path, authority)
    tls = server_context(*_pair(tmp_path, authority, "localhost"), ca_file)
    with_one = client_context(
        ca_file=ca_file, certificate=_pair(tmp_path, authority, "operator.example")
    )
    async with serving(Credentials(tls=Contexts(tls))) as served:
        served.instance.release.set()
        url = f"https://localhost:{served.control_port}"
        async with Client.tcp(url, tls=with_one) as client:
            await client.stop()
        async with Client.tcp(url, tls=client_context(ca_file=ca_file)) as client:
            with pytest.raises(RefusedError, match="a token or a client certificate is needed"):
                await client.status()

        assert served.instance.events.recent()[0].actor.startswith(
            "certificate 'DNS:operator.example' from "
        )


async def test_a_certificate_of_another_authority_does_not_get_in(
    serving: Serving, tmp_path: Path, authority: trustme.CA
) -> None:
    """The handshake fails, or the connection ends with it."""
    ca_file = _authority_file(tmp_path, authority)
    tls = server_context(*_pair(tmp_path, authority, "localhost"), ca_file)
    foreign = client_context(
        ca_file=ca_file, certificate=_pair(tmp_path, trustme.CA(), "intruder.example")
    )
    async with serving(Credentials(tls=Contexts(tls))) as served:
        url = f"https://localhost:{served.control_port}"
        async with Client.tcp(url, tls=foreign) as client:
            with pytest.raises(UnreachableError):
                await client.status()


async def test_a_certificate_means_nothing_where_none_is_asked_for(
    serving: Serving, tmp_path: Path, authority: trustme.CA
) -> None:
    """Without a client CA nobody has verified it."""
    tls = server_context(*_pair(tmp_path, authority, "localhost"))
    trust = client_context(
        ca_file=_authority_file(tmp_path, authority),
        certificate=_pair(tmp_path, authority, "operator.example"),
    )
    async with (
        serving(Credentials(tls=Contexts(tls), token=lambda: "hunter2")) as served,
        Client.tcp(f"https://localhost:{served.control_port}", tls=trust) as client,
    ):
        with pytest.raises(RefusedError):
            await client.status()


async def test_an_older_tls_is_not_spoken(
    serving: Serving, tmp_path: Path, authority: trustme.CA
) -> None:
    """1.3 or nothing."""
    tls = server_context(*_pair(tmp_path, authority, "localhost"))
    old = ssl.create_default_context(cafile=_authority_file(tmp_path, authority))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with (
        serving(Credentials(tls=Contexts(tls), token=lambda: "hunter2")) as served,
        Client.tcp(f"https://localhost:{served.control_port}", tls=old) as client,
    ):
        with pytest.raises(UnreachableError):
            await client.status()


async def test_plain_http_to_a_tls_listener_gets_nowhere(
    serving: Serving, tmp_path: Path, authority: trustme.CA
) -> None:
    """No answer, and no trouble for the next one."""
    tls = server_context(*_pair(tmp_path, authority, "localhost"))
    trust = client_context(ca_file=_authority_file(tmp_path, authority))
    async with serving(Credentials(tls=Contexts(tls), token=lambda: "t")) as served:
        raw = await served.raw(
            b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n", port=served.control_port
        )
        url = f"https://localhost:{served.control_port}"
        async with Client.tcp(url, token="t", tls=trust) as client:
            await client.status()

    assert b"HTTP/1.1 200" not in raw


def test_files_that_do_not_fit_are_all_named(tmp_path: Path, authority: trustme.CA) -> None:
    """The pair and the authority, each with its setting."""
    certificate, _ = _pair(tmp_path, authority, "one")
    _, key = _pair(tmp_path, authority, "other")

    with pytest.raises(SettingsError) as caught:
        server_context(certificate, key, tmp_path / "missing.crt")

    assert [problem.path for problem in caught.value.problems] == [
        "control.tls.certificate_file",
        "control.tls.client_ca_file",
    ]
    assert str(certificate) in caught.value.problems[0].message


def test_an_encrypted_key_is_refused_without_a_question(tmp_path: Path) -> None:
    """The manager has no terminal to type a password at."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    subprocess.run(
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-passout",
            "pass:x",
            "-subj",
            "/CN=x",
            "-keyout",
            str(tmp_path / "k"),
            "-out",
            str(tmp_path / "c"),
        ],
        check=True,
        capture_output=True,
    )

    with pytest.raises(SettingsError):
        server_context(tmp_path / "c", tmp_path / "k")


def test_credentials_have_the_size_of_the_kernels() -> None:
    """``struct ucred`` is three integers."""
    assert struct.calcsize("3i") == 12
