from __future__ import annotations

import sys
from pathlib import Path

import pytest

from instance_manager import bundle


def made(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """Have the program believe that it is a bundle in *root*."""
    (root / "lib").mkdir(parents=True)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(root / "instance-manager"))
    return root


def test_what_the_loader_needed_is_taken_away() -> None:
    """No child can inherit the bundle's libraries, or believe that it was begun already."""
    environment = {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/bundle/lib",
        "_PYI_APPLICATION_HOME_DIR": "/bundle",
        "_PYI_PARENT_PROCESS_LEVEL": "1",
    }

    bundle.clean_environment(environment)

    assert environment == {"PATH": "/bin"}


def test_the_library_path_of_the_image_is_put_back() -> None:
    """A foreign image may have one of its own."""
    environment = {"LD_LIBRARY_PATH": "/bundle/lib:/its", "LD_LIBRARY_PATH_ORIG": "/its"}

    bundle.clean_environment(environment)

    assert environment == {"LD_LIBRARY_PATH": "/its"}


def test_a_bundle_starts_itself_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has no interpreter that takes a module's name; an installation has."""
    assert bundle.command()[-2:] == ("-m", "instance_manager")

    root = made(monkeypatch, tmp_path / "bundle")

    assert bundle.command() == (str(root / "instance-manager"),)


def test_a_bundle_has_a_wrapper_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a foreign image lacks it, and an installation has none."""
    assert bundle.name_wrapper() is None

    root = made(monkeypatch, tmp_path / "bundle")
    assert bundle.name_wrapper() is None
    wrapper = root / "lib" / "libnss_wrapper.so"
    wrapper.touch()

    assert bundle.name_wrapper() == wrapper


@pytest.mark.parametrize("name", ["a b", "a:b", "$ORIGIN"])
def test_no_wrapper_is_named_that_the_loader_would_not_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """LD_PRELOAD is split at blanks and colons, and a dollar is expanded."""
    root = made(monkeypatch, tmp_path / name)
    (root / "lib" / "libnss_wrapper.so").touch()

    assert bundle.name_wrapper() is None
