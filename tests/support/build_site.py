"""A base, packages and a place for results, for tests of ``extension build``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.made_objects import make_object
from tests.support.package_repository import (
    EXTENSIONS,
    LIBRARIES,
    SERVER_LIBRARIES,
    Repository,
    make_base,
)

SECONDS: Final = 90
THING: Final = "postgresql-18-thing-1"
SCRIPT: Final = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"
LOADING: Final = "LOAD '$libdir/thing';\nSELECT 'LOAD ''$libdir/thing''';\n"
CONTROL: Final = "default_version = '1.0'\nrequires = 'other, plpgsql'\n"

NEEDS_APT: Final = pytest.mark.skipif(
    not shutil.which("apt-get") or not shutil.which("dpkg-deb"), reason="there is no apt here"
)


@dataclass
class Site:
    """A base, a repository, and a directory for results."""

    base: Path
    repository: Repository
    results: Path
    cache: Path

    def command(self, *arguments: str) -> list[str]:
        program = [sys.executable, "-m", "instance_manager", "extension", "build"]
        given = [f"--base={self.base}", f"--cache={self.cache}"]
        return [*program, *given, *arguments]

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Build, and return how it ended."""
        return subprocess.run(
            self.command(*arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            **more,
        )

    def built(self, *arguments: str, name: str = "thing", **more: Any) -> Any:
        """Build a volume as a directory that must succeed; return the summary."""
        output = f"--output=dir:{self.results / name}"
        given = (f"--name={name}", output, "--format=json", *arguments)
        result = self.run(*given, **more)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def left(self) -> list[str]:
        """Return the names in the directory for results."""
        return sorted(os.listdir(self.results))  # noqa: PTH208 - names are what is wanted


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a base and a repository with an extension, its libraries, and another extension."""
    repository = Repository(tmp_path / "repository")
    far = make_object(soname="libfar.so.1", needed=("libdeep.so.3", "libc.so.6"), exports=("far",))
    deep = make_object(soname="libdeep.so.3", exports=("deep",), build_id=b"d" * 20)
    module = (
        make_object(
            needed=("libfar.so.1", "libhad.so.1", "libc.so.6"), wants=("dlopen", "far", "palloc")
        )
        + b"\0libopened.so.2\0libnowhere.so.9\0"
    )
    repository.add("libdeep3", {f"{LIBRARIES}/libdeep.so.3": deep})
    repository.add(
        "libfar1",
        {
            f"{LIBRARIES}/libfar.so.1": Path("libfar.so.1.2.3"),
            f"{LIBRARIES}/libfar.so.1.2.3": far,
            "usr/share/far/unused": "data",
        },
        depends=("libdeep3",),
    )
    opened = make_object(soname="libopened.so.2", exports=("opened",))
    repository.add("libopened2", {f"{LIBRARIES}/libopened.so.2": opened})
    repository.add(
        "postgresql-18-other",
        {
            f"{EXTENSIONS}/other.control": "default_version = '2'\n",
            f"{EXTENSIONS}/other--2.sql": SCRIPT,
            f"{SERVER_LIBRARIES}/other.so": make_object(needed=("libc.so.6",)),
        },
    )
    link = f"/{EXTENSIONS}/thing.control postgresql-18-thing /{EXTENSIONS}/thing-1.control"
    repository.add(
        THING,
        {
            f"{EXTENSIONS}/thing-1.control": CONTROL,
            f"{EXTENSIONS}/thing--1.0.sql": SCRIPT,
            f"{EXTENSIONS}/thing--0.9--1.0.sql": LOADING,
            f"{EXTENSIONS}/thing--0.8--1.0.sql": Path("thing--0.9--1.0.sql"),
            f"{SERVER_LIBRARIES}/thing.so": module,
            f"{SERVER_LIBRARIES}/bitcode/thing.index.bc": b"BC",
            "usr/lib/postgresql/18/bin/thingctl": "#!/bin/sh\n",
            "usr/include/postgresql/18/server/thing.h": "int thing;",
        },
        depends=("libfar1", "libopened2", "postgresql-18-other"),
        postinst=f"update-alternatives \\\n  --install {link} 10\n",
    )
    results = tmp_path / "results"
    results.mkdir()
    return Site(
        make_base(tmp_path / "base", repository.place), repository, results, tmp_path / "cache"
    )


def contents(volume: Path) -> dict[str, str]:
    """Return the paths of a volume, and where its links lead."""
    return {
        str(each.relative_to(volume)): os.readlink(each) if each.is_symlink() else ""  # noqa: PTH115
        for each in volume.rglob("*")
        if each.is_symlink() or not each.is_dir()
    }
