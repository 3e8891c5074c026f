"""PostgreSQL images that were not made for the manager, after the Dockerfiles of their projects.

The official image's: docker-library/postgres, for Debian; its programs come from Debian's own
packages here. CloudNativePG's: cloudnative-pg/postgres-containers, target ``minimal``. No registry
has to be reached: mmdebstrap makes them. They stay, tagged, so that the next run is quick.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAKE_SECONDS: Final = 600

_ROOT: Final = (
    "--quiet",
    "--variant=minbase",
    '--aptopt=Acquire::Check-Valid-Until "false"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=force-confold",
    # As in both: the account is there before the packages, and no cluster is made.
    "--essential-hook=echo postgres:x:999:999::/var/lib/postgresql:/bin/bash >> $1/etc/passwd",
    "--essential-hook=echo postgres:x:999: >> $1/etc/group",
    "--essential-hook=echo 'postgres:!:20000::::::' >> $1/etc/shadow",
    "--essential-hook=mkdir -p $1/etc/postgresql-common",
    (
        "--essential-hook=cd $1/etc/postgresql-common"
        " && echo create_main_cluster=false > createcluster.conf"
    ),
    "--customize-hook=chroot $1 localedef --inputfile=en_US --charmap=UTF-8 en_US.utf8",
    "--customize-hook=rm -rf $1/var/lib/apt/lists $1/var/cache/apt",
)

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OFFICIAL: Final = """
FROM {root}
RUN install --directory --owner postgres --group postgres --mode 1777 /var/lib/postgresql {data} \\
 && install --directory --owner postgres --group postgres --mode 3777 /var/run/postgresql \\
 && mkdir /docker-entrypoint-initdb.d
ENV LANG=en_US.utf8 PG_MAJOR={major} PGDATA={data} \\
    PATH={path}:/usr/lib/postgresql/{major}/bin
VOLUME {volume}
ENTRYPOINT ["docker-entrypoint.sh"]
STOPSIGNAL SIGINT
EXPOSE 5432
CMD ["postgres"]
"""
_CLOUD_NATIVE: Final = """
FROM {root}
ENV PATH={path}:/usr/lib/postgresql/{major}/bin
RUN usermod -u 26 postgres
USER 26
"""


@dataclass(frozen=True)
class Foreign:
    """One of them: *user* is who postgres is, *volume* where its data is kept."""

    name: str
    suite: str
    major: int
    user: str
    volume: str
    data: str
    recipe: str

    @property
    def tag(self) -> str:
        """The image's name, without the prefix of the checkout."""
        return f"foreign/{self.name}:{self.major}"


FOREIGN: Final = (
    Foreign(
        *("official", "bookworm", 15, "999:999"),
        *("/var/lib/postgresql/data", "/var/lib/postgresql/data", _OFFICIAL),
    ),
    Foreign(
        *("official", "trixie", 17, "999:999"),
        *("/var/lib/postgresql/data", "/var/lib/postgresql/data", _OFFICIAL),
    ),
    Foreign(
        *("official", "forky", 18, "999:999"),
        *("/var/lib/postgresql", "/var/lib/postgresql/18/docker", _OFFICIAL),
    ),
    Foreign(
        *("cloudnative-pg", "forky", 18, "26:999"),
        *("/var/lib/postgresql/data", "/var/lib/postgresql/data/pgdata", _CLOUD_NATIVE),
    ),
)


def make(podman: Callable[..., object], exists: Callable[[str], bool], prefix: str) -> None:
    """Make those that are not there yet, for a podman that is called with its arguments."""
    for foreign in FOREIGN:
        image = f"{prefix}/{foreign.tag}"
        if exists(image):
            continue
        root = f"{prefix}/foreign/root:{foreign.suite}-{foreign.major}"
        with TemporaryDirectory() as scratch:
            if not exists(root):
                archive = Path(scratch) / "root.tar"
                subprocess.run(
                    [
                        *("mmdebstrap", *_ROOT),
                        f"--include=postgresql-{foreign.major},locales",
                        *(foreign.suite, str(archive)),
                    ],
                    check=True,
                    timeout=MAKE_SECONDS,
                )
                podman("import", "--quiet", str(archive), root)
            recipe = Path(scratch) / "Dockerfile"
            recipe.write_text(
                foreign.recipe.format(
                    root=root,
                    major=foreign.major,
                    data=foreign.data,
                    volume=foreign.volume,
                    path=_PATH,
                )
            )
            build = ("build", "--quiet", "--pull=never", "--network=none", "--file", str(recipe))
            podman(*build, "--tag", image, scratch)
