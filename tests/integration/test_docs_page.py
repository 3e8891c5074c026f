"""The page of the API in a real browser, and the requests that it shows."""

from __future__ import annotations

import http.client
import re
import shlex
import shutil
import ssl
import subprocess
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from instance_manager.api.descriptions import DESCRIPTIONS
from instance_manager.api.docs_page import page
from instance_manager.api.openapi import document
from tests.support.manager import UnixConnection, until
from tests.support.secured import secure

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.manager import Manager

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
    *("--enable-logging=stderr", "--dump-dom"),
)


@pytest.fixture(scope="session")
def browser(lacking: Callable[[str, str], NoReturn]) -> str:
    """Return the path of Chromium."""
    found = shutil.which("chromium")
    return found or lacking("browser", "chromium is not installed")


def shown(browser: str, url: str, directory: Path) -> tuple[str, str]:
    """Return the page as the browser has it after loading, and what it said meanwhile."""
    done = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={directory / 'profile'}", url],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def test_a_browser_shows_the_whole_api_and_refuses_nothing_of_the_page(
    manager: Manager, browser: str, tmp_path: Path
) -> None:
    """Every route has its place, and the page's own policy lets its style be used."""
    manager.start().until_ready()

    page, said = shown(browser, f"http://127.0.0.1:{manager.control_port}/docs", tmp_path)

    assert "<title>instance-manager API</title>" in page
    for description in DESCRIPTIONS.values():
        assert f'<section id="{description.name}">' in page
    assert "Refused to" not in said
    assert "Content Security Policy" not in said


def test_a_browser_tells_a_page_whose_style_does_not_fit_its_policy(
    browser: str, tmp_path: Path
) -> None:
    """So the test above would see it."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"style-src 'none'\">"
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html>{policy}<style>p {{ color: red }}</style><p>x</p>")

    _, said = shown(browser, file.as_uri(), tmp_path)

    assert "Content Security Policy" in said


def sent(line: str, directory: Path) -> tuple[int, str]:
    """Do what a line with curl asks for: no machine needs that program for the tests."""
    words = shlex.split(line.replace("$(cat token)", (directory / "token").read_text().strip()))
    assert words[:2] == ["curl", "-s"]
    options: dict[str, list[str]] = {}
    rest = words[2:-1]
    for option, value in zip(rest[::2], rest[1::2], strict=True):
        options.setdefault(option, []).append(value)
    scheme, _, host, path = words[-1].split("/", 3)
    connection: http.client.HTTPConnection
    if "--unix-socket" in options:
        assert (scheme, host) == ("http:", "localhost")
        connection = UnixConnection(Path(options.pop("--unix-socket")[0]))
    else:
        context = ssl.create_default_context(cafile=directory / options.pop("--cacert")[0])
        connection = http.client.HTTPSConnection(host, context=context, timeout=60)
    headers = dict(header.split(": ", 1) for header in options.pop("-H", []))
    method, body = options.pop("-X", ["GET"])[0], options.pop("-d", [None])[0]
    assert not options
    connection.request(method, f"/{path}", body, headers)
    response = connection.getresponse()
    found = response.status, response.read().decode()
    connection.close()
    return found


def with_real_names(request: str, manager: Manager) -> str:
    """Return a request of the page with what exists at the place of what it calls NAME and so."""
    places = {
        "/run/instance-manager/control.sock": str(manager.socket),
        "https://HOST:8000": f"https://localhost:{manager.control_port}",
        "/VOLUME'": "/pgvector'",
        "/NAME/": "/postgres/",
        "/EXTENSION/": "/plpgsql/",
    }
    for name, real in places.items():
        request = request.replace(name, real)
    if "/ID'" in request:
        operations = manager.ask("GET", "/v1/operations")[1]["items"]
        request = request.replace("/ID'", f"/{operations[-1]['id']}'")
    if "TAG" in request:
        status = manager.status()
        assert status is not None
        request = request.replace("TAG", status["configuration"]["etag"])
    checks = {"livez": "heartbeat", "healthz": "heartbeat", "startupz": "start", "readyz": "lag"}
    return re.sub(r"/(\w+)/CHECK'", lambda found: f"/{found[1]}/{checks[found[1]]}'", request)


def test_the_requests_of_the_page_are_answered(manager: Manager, tmp_path: Path) -> None:
    """Over the unix socket and over TLS, each with names that exist."""
    secure(manager, tmp_path)
    manager.settings["configuration"] = {"source": "api"}
    manager.start().until_ready()
    manager.ask("POST", "/v1/postgres/reload", Prefer="wait=60")
    until(lambda: manager.ask("GET", "/v1/databases")[1]["read_at"], "databases are read")
    lines = [
        line[line.index("curl") :].partition("</pre>")[0]
        for line in unescape(page(document())).splitlines()
        if "curl -s" in line
    ]

    for line in lines:
        status, body = sent(with_real_names(line, manager), tmp_path)
        # What a line before it has begun is in the way of some, and a cancel may come too late.
        assert status in {200, 202, 409}, (line, body)

    assert len(lines) == 2 * len(DESCRIPTIONS)
