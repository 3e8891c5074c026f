"""The page of the API in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, NoReturn

import pytest

from instance_manager.api.descriptions import DESCRIPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
