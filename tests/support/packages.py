"""Real Debian packages, by the operand image's own apt.

apt runs in a container of the image, which is thrown away: it resolves against what the image
has, from the mirror that the image was made from, and this host's apt is left alone. What was
fetched stays in the checkout, in ``.cache/packages``, so that it is fetched once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.container.conftest import Podman

CACHE: Final = Path(__file__).parents[2] / ".cache" / "packages"
FETCH_SECONDS: Final = 900

_APT: Final = r"""
set -eu
suite=$1 architecture=$2 mode=$3; shift 3
set_sources=
if [ -n "$suite" ]; then
    # The mirror of the image's own suite, in either form of a list of sources.
    mirror=$(sed -nE 's/^(URIs:|deb( +\[.*\])?) +([^ ]+).*/\3/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | head -n 1)
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keys] $mirror $suite main" > /tmp/sources.list
    set_sources='-o Dir::Etc::sourcelist=/tmp/sources.list -o Dir::Etc::sourceparts=-'
fi
if [ -n "$architecture" ]; then dpkg --add-architecture "$architecture"; fi
lists=/packages/lists/$suite-$architecture
mkdir -p "$lists/partial" /packages/partial
apt() {
    apt-get --quiet=2 --yes --no-install-recommends -o APT::Sandbox::User=root \
        -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3 \
        -o Dir::State::Lists="$lists" $set_sources "$@"
}
fetch() {
    case $mode in
    alone) (cd /packages && apt download "$@") ;;
    needs) apt install --download-only -o Dir::Cache::archives=/packages "$@" >&2 ;;
    esac
}
names() {
    case $mode in
    alone) apt download --print-uris "$@" ;;
    needs) apt install --print-uris -o Dir::Cache::archives=/tmp "$@" ;;
    esac
}
# The lists of an earlier run may name what the mirror does not have any more.
fetch "$@" 2> /tmp/first || { apt update >&2; fetch "$@"; }
names "$@"
"""


@dataclass(frozen=True)
class Wanted:
    """Packages to fetch: from the image's own suite unless another is named.

    With all that they need and the image lacks; *alone* without. *architecture* is another one
    than the image's, for packages that are named with it, such as ``postgresql-18-age:arm64``.
    """

    packages: tuple[str, ...]
    suite: str = ""
    architecture: str = ""
    alone: bool = False

    def arguments(self) -> tuple[str, ...]:
        mode = "alone" if self.alone else "needs"
        return (self.suite, self.architecture, mode, *self.packages)


class Archive:
    """Fetches packages for one operand image."""

    def __init__(self, podman: Podman, operand: str) -> None:
        self._podman = podman
        self._operand = operand
        CACHE.mkdir(parents=True, exist_ok=True)
        script = "sha256sum /var/lib/dpkg/status | cut -d' ' -f1; ldconfig -p | awk '{print $1}'"
        status, *names = self._run(script).split()
        self._status = status
        self.base_libraries: Final = frozenset(name for name in names if ".so" in name)

    def fetch(self, wanted: Wanted) -> tuple[Path, ...]:
        """Return the files of the packages, sorted; what is there already is not fetched again."""
        identity = "\n".join((self._status, *wanted.arguments()))
        plan = CACHE / "plans" / hashlib.sha256(identity.encode()).hexdigest()[:16]
        if plan.exists():
            files = _files(plan.read_text())
            if all(file.exists() for file in files):
                return files
        # The form of a line is: 'address' file size hash
        lines = self._run(_APT, *wanted.arguments()).splitlines()
        names = "\n".join(sorted(line.split()[1] for line in lines if line.startswith("'")))
        assert names, f"apt named no package for {wanted}"
        plan.parent.mkdir(exist_ok=True)
        plan.write_text(names)
        return _files(names)

    def _run(self, script: str, *arguments: str) -> str:
        options = ("--rm", "--user=0:0", "--network=host", f"--volume={CACHE}:/packages")
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=10000:10000")
        command = ("--entrypoint=sh", self._operand, "-c", script, "sh", *arguments)
        result = self._podman("run", *options, *limits, *command, seconds=FETCH_SECONDS)
        return result.checked().out


def _files(names: str) -> tuple[Path, ...]:
    return tuple(CACHE / name for name in names.split())


def package_name(file: Path) -> str:
    """Return the name of the package in *file*."""
    return file.name.partition("_")[0]
