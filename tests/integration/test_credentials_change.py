"""Token, certificates and authorities that change while the manager runs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from instance_manager.client import Client, RefusedError, UnreachableError, client_context
from tests.support.figures import Figures
from tests.support.manager import Manager, until

Times = Callable[[int, int], int]
DEADLINE_SECONDS = 60.0


class Secrets:
    """The files that the manager is given; each change is one rename of a link, or several."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.token = "first"
        self._version = 0

    def write(self) -> None:
        """Write a new version of all files, and swap the link that leads to them."""
        self._version += 1
        version = self.directory / f"..{self._version}"
        version.mkdir()
        issued = self.authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
        issued.cert_chain_pems[0].write_to_path(version / "tls.crt")
        issued.private_key_pem.write_to_path(version / "tls.key")
        self.authority.cert_pem.write_to_path(version / "ca.crt")
        (version / "token").write_text(f"{self.token}\n")
        for file in version.iterdir():
            file.chmod(0o640)
        link = self.directory / "..new"
        link.symlink_to(version.name)
        link.rename(self.directory / "current")

    def path(self, name: str) -> Path:
        """Return the path that settings name."""
        return self.directory / "current" / name

    def client_context(self, *, certificate: bool = False) -> ssl.SSLContext:
        """Return the context of a client that trusts the authority, with a certificate of it."""
        ca = self.directory / f"trusted-{time.monotonic_ns()}.crt"
        self.authority.cert_pem.write_to_path(ca)
        if not certificate:
            return client_context(ca_file=ca)
        issued = self.authority.issue_cert("operator.example", key_type=trustme.KeyType.ECDSA)
        pair = ca.with_suffix(".pem"), ca.with_suffix(".key")
        issued.cert_chain_pems[0].write_to_path(pair[0])
        issued.private_key_pem.write_to_path(pair[1])
        return client_context(ca_file=ca, certificate=pair)


@pytest.fixture
def secrets(manager: Manager) -> Secrets:
    """Start a manager with TLS, a token and client certificates."""
    directory = manager.directory / "secrets"
    directory.mkdir()
    made = Secrets(directory)
    made.write()
    manager.settings["control"] |= {
        "token_file": str(made.path("token")),
        "tls": {
            "certificate_file": str(made.path("tls.crt")),
            "key_file": str(made.path("tls.key")),
            "client_ca_file": str(made.path("ca.crt")),
        },
    }
    own(directory)
    manager.start().until_ready()
    return made


def own(directory: Path) -> None:
    """Let the account of postgres read the files, as a group or as their owner."""
    import os

    from instance_manager.postgres import account
    from tests.support.manager import ACCOUNT

    if os.geteuid() == 0:
        owner = account.find(ACCOUNT)
        for path in (directory, *directory.rglob("*")):
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def change(secrets: Secrets) -> None:
    """Write anew, for the account of postgres."""
    secrets.write()
    own(secrets.directory)


def url(manager: Manager) -> str:
    """Return where the control API is."""
    return f"https://localhost:{manager.control_port}"


async def answers(client: Client) -> bool:
    """Whether the client is let in."""
    try:
        await client.status()
    except (RefusedError, UnreachableError):
        return False
    return True


async def until_true(condition: Callable[[], object]) -> None:
    """Wait for an asynchronous condition, with a deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():  # type: ignore[misc]
            await asyncio.sleep(0.05)


def reasons(manager: Manager) -> list[str]:
    """Return the reasons of the events so far."""
    _, events = manager.ask("GET", "/v1/events")
    return [event["reason"] for event in events["items"]]


def test_a_new_token_is_taken_and_the_old_one_is_no_use(
    manager: Manager, secrets: Secrets
) -> None:
    """On connections that are open, too."""

    async def body() -> None:
        trust = secrets.client_context()
        async with (
            Client.tcp(url(manager), token="first", tls=trust) as old,
            Client.tcp(url(manager), token="second", tls=trust) as new,
        ):
            assert await answers(old)
            assert not await answers(new)
            secrets.token = "second"
            (secrets.path("token")).write_text("second\n")
            await until_true(lambda: answers(new))
            assert not await answers(old)

    asyncio.run(body())
    assert "CredentialsRead" in reasons(manager)


def test_what_can_not_be_used_is_told_and_what_was_before_stays(
    manager: Manager, secrets: Secrets
) -> None:
    """A key that fits no certificate, an empty token, an authority that is none."""
    good = {name: secrets.path(name).read_text() for name in ("tls.key", "token", "ca.crt")}
    other = trustme.CA().issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    bad = {"tls.key": other.private_key_pem.bytes().decode(), "token": "", "ca.crt": "nonsense"}

    async def is_served() -> bool:
        async with Client.tcp(url(manager), token="first", tls=secrets.client_context()) as client:
            return await answers(client)

    for number, (name, content) in enumerate(bad.items(), 1):
        secrets.path(name).write_text(content)
        until(lambda: reasons(manager).count("CredentialsRejected") >= number, "it is told")  # noqa: B023
        assert asyncio.run(is_served())
        secrets.path(name).write_text(good[name])
    secrets.token = "first"
    change(secrets)
    until(lambda: "CredentialsRead" in reasons(manager), "the mended ones are read")
    assert asyncio.run(is_served())


def test_an_authority_that_is_removed_admits_nobody_any_more(
    manager: Manager, secrets: Secrets
) -> None:
    """Neither on new connections, nor on those that are open."""

    async def body() -> None:
        context = secrets.client_context(certificate=True)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with (
            Client.tcp(url(manager), tls=context) as open_before,
            Client.tcp(url(manager), tls=context) as opened_after,
        ):
            assert await answers(open_before)
            secrets.authority = trustme.CA()
            change(secrets)
            await until_true(lambda: is_refused(open_before))
            assert not await answers(opened_after)
        renewed = secrets.client_context(certificate=True)
        async with Client.tcp(url(manager), tls=renewed) as client:
            assert await answers(client)

    async def is_refused(client: Client) -> bool:
        return not await answers(client)

    asyncio.run(body())


class Caller:
    """Makes a new connection for each question, and remembers what went wrong."""

    def __init__(self, manager: Manager, trust: ssl.SSLContext) -> None:
        self.failures: list[str] = []
        self.certificates: set[str] = set()
        self.seconds: list[float] = []
        self._port = manager.control_port
        self._trust = trust

    async def ask(self) -> None:
        """Connect, ask, read the answer, and close."""
        try:
            await self._ask()
        except OSError as error:
            self.failures.append(repr(error))

    async def _ask(self) -> None:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("localhost", self._port, ssl=self._trust)
        self.seconds.append(time.monotonic() - began)
        self.certificates.add(writer.get_extra_info("peercert")["serialNumber"])
        writer.write(
            b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer first\r\n"
            b"Connection: close\r\n\r\n"
        )
        answer = await reader.read()
        if not answer.startswith(b"HTTP/1.1 200"):
            self.failures.append(repr(answer[:60]))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_certificates_can_be_renewed_at_any_time_without_a_failed_handshake(
    manager: Manager, secrets: Secrets, times: Times, figures: Figures
) -> None:
    """One a second, at fifty new connections a second."""
    seconds, rate = times(5, 60), 50
    caller = Caller(manager, secrets.client_context())

    async def renew() -> None:
        for _ in range(seconds):
            await asyncio.to_thread(change, secrets)
            await asyncio.sleep(1)

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(renew())
            for _ in range(seconds * rate):
                group.create_task(caller.ask())
                await asyncio.sleep(1 / rate)

    asyncio.run(body())

    assert caller.failures == []
    assert len(caller.certificates) > 1
    for each in caller.seconds:
        figures.add("handshake while certificates are renewed each second", ready_seconds=each)
    assert len(caller.seconds) == seconds * rate
