"""How large images are by their lists of packages, where no registry has them to be weighed.

``python -m tests.support.image_sizes [SUITE [MAJOR]]`` prints a table: what apt would install of
one Debian suite by each list, from nothing, and the sum of ``Installed-Size``. The lists are those
of docker-library/postgres and cloudnative-pg/postgres-containers; they take their packages from
PostgreSQL's own archive, here all come from the suite, so that only the lists differ.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

MIRROR: Final = "http://deb.debian.org/debian"
KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
BASE: Final = ("?essential", "?priority(required)", "apt", "debian-archive-keyring")
LISTS: Final = {
    "the base, `debian:SUITE-slim`": "",
    "this operand": "postgresql-MAJOR python3 libnss-wrapper tzdata",
    "CloudNativePG's minimal image": (
        "postgresql-common ca-certificates gnupg libsasl2-modules libldap-common postgresql-MAJOR"
    ),
    "the official image": (
        "gnupg less locales libnss-wrapper xz-utils zstd postgresql-common postgresql-MAJOR"
        " postgresql-MAJOR-jit"
    ),
}
OWN: Final = "this operand"
STAND_IN: Final = """\
Package: stand-in
Status: install ok installed
Version: 1
Architecture: all
Provides: postgresql-common (= 999), postgresql-client-common (= 999), ssl-cert (= 999),
 locales (= 999)

"""


class Apt:
    """An apt of its own, on one suite, with nothing installed."""

    def __init__(self, place: Path, suite: str) -> None:
        for each in ("lists/partial", "cache/archives/partial"):
            (place / each).mkdir(parents=True)
        (place / "sources.list").write_text(f"deb [signed-by={KEYS}] {MIRROR} {suite} main\n")
        self._status = place / "status"
        self._options = [
            f"-oDir::Etc::sourcelist={place}/sources.list",
            "-oDir::Etc::sourceparts=/dev/null",
            "-oDir::Etc::preferencesparts=/dev/null",
            f"-oDir::State::lists={place}/lists",
            f"-oDir::State::status={self._status}",
            f"-oDir::State::extended_states={place}/extended",
            f"-oDir::Cache={place}/cache",
            "-oAcquire::Check-Valid-Until=false",
            "-oAcquire::Languages=none",
        ]
        self._status.write_text("")
        self._run("apt-get", "update")

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            [command[0], *self._options, *command[1:]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"cannot run {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def installed(self, packages: list[str], *, stand_in: bool) -> dict[str, int]:
        """Return what is installed for *packages*, with the size of each in bytes."""
        self._status.write_text(STAND_IN if stand_in else "")
        install = ("install", "--simulate", "--no-install-recommends", *BASE, *packages)
        chosen = re.findall(r"^Inst (\S+) \((\S+)", self._run("apt-get", *install), re.MULTILINE)
        shown = self._run("apt-cache", "show", *(f"{name}={version}" for name, version in chosen))
        return {
            name: int(size) * 1024
            for stanza in shown.split("\n\n")
            for name in re.findall(r"^Package: (\S+)", stanza, re.MULTILINE)
            for size in re.findall(r"^Installed-Size: (\d+)", stanza, re.MULTILINE)
        }


def main(suite: str = "forky", major: str = "18") -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as place:
        apt = Apt(Path(place), suite)
        rows: list[str] = []
        for name, text in LISTS.items():
            packages = text.replace("MAJOR", major).split()
            sizes = apt.installed(packages, stand_in=name == OWN)
            largest = sorted(sizes, key=lambda each: -sizes[each])[:4]
            told = ", ".join(f"{each} {sizes[each] / 1e6:.0f}" for each in largest)
            total = f"{sum(sizes.values()) / 1e6:.0f}"
            rows.append(f"| {name.replace('SUITE', suite)} | {len(sizes)} | {total} | {told} |")
    head = ("| image | packages | MB | the largest |", "|---|---|---|---|")
    sys.stdout.write("".join(f"{line}\n" for line in (*head, *rows)))


if __name__ == "__main__":
    main(*sys.argv[1:])
