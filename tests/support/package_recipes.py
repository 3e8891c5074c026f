"""What the volumes of the lab are made of: packages as they are, and some that are damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.support.package_images import Recipe
from tests.support.packages import Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

OLD: Final = "bookworm"
"""A suite whose libraries are older than those of the operand image."""

_OLD_LIBRARIES: Final = Wanted(
    tuple(f"{name}/{OLD}" for name in ("libcurl4", "libssl3", "libstdc++6", "zlib1g")),
    suite=OLD,
    alone=True,
)
RECIPES: Final[Mapping[str, Recipe]] = {
    "pgvector": Recipe(Wanted(("postgresql-18-pgvector",))),
    "pgaudit": Recipe(Wanted(("postgresql-18-pgaudit",))),
    "pg_failover_slots": Recipe(Wanted(("postgresql-18-pg-failover-slots",))),
    "timescaledb": Recipe(Wanted(("postgresql-18-timescaledb",))),
    "postgis": Recipe(Wanted(("postgresql-18-postgis-3",))),
    "pg_cron": Recipe(Wanted(("postgresql-18-cron",))),
    "age": Recipe(Wanted(("postgresql-18-age",))),
    "http": Recipe(Wanted(("postgresql-18-http",))),
    "h3": Recipe(Wanted(("postgresql-18-h3",))),
    "rdkit": Recipe(Wanted(("postgresql-18-rdkit",), suite="sid")),
    "wal2json": Recipe(Wanted(("postgresql-18-wal2json",))),
    "pglogical": Recipe(Wanted(("postgresql-18-pglogical",))),
    "plpython3": Recipe(Wanted(("postgresql-plpython3-18",))),
    "pltcl": Recipe(Wanted(("postgresql-pltcl-18",))),
    "plr": Recipe(Wanted(("postgresql-18-plr",))),
    "mysql_fdw": Recipe(Wanted(("postgresql-18-mysql-fdw",))),
    "jit": Recipe(Wanted(("postgresql-18-jit",))),
    "pgextwlist": Recipe(Wanted(("postgresql-18-pgextwlist",))),
    "pg_stat_kcache": Recipe(Wanted(("postgresql-18-pg-stat-kcache",))),
    "pgvector_17": Recipe(Wanted(("postgresql-17-pgvector",), suite="trixie", alone=True)),
    "pgvector_arm64": Recipe(
        Wanted(("postgresql-18-pgvector:arm64",), architecture="arm64", alone=True),
        own=("postgresql-18-pgvector",),
    ),
    "pgvector_truncated": Recipe(
        Wanted(("postgresql-18-pgvector",)), damage=(("truncate", "lib/vector.so"),)
    ),
    "postgis_without_geos": Recipe(
        Wanted(("postgresql-18-postgis-3",)), damage=(("remove", "system/libgeos_c.so*"),)
    ),
    "postgis_alternatives": Recipe(
        Wanted(("postgresql-18-postgis-3",)),
        damage=(("alternative", "share/extension/postgis.control"),),
    ),
    "plpython3_without_python": Recipe(
        Wanted(("postgresql-plpython3-18",)), damage=(("remove", "system/libpython*"),)
    ),
    "rdkit_old_libstdcxx": Recipe(
        Wanted(("postgresql-18-rdkit",), suite="sid"),
        added=Wanted((f"libstdc++6/{OLD}",), suite=OLD, alone=True),
    ),
    "plpython3_old_openssl": Recipe(
        Wanted(("postgresql-plpython3-18",)),
        added=Wanted((f"libssl3/{OLD}",), suite=OLD, alone=True),
    ),
    "http_old_openssl": Recipe(
        Wanted(("postgresql-18-http",)),
        added=Wanted((f"libssl3/{OLD}",), suite=OLD, alone=True),
    ),
    "packages": Recipe(
        Wanted(
            (
                # It wants a newer PostGIS than the others.
                "?and(?name(^postgresql-18-),?not(?name(-address-standardizer)))",
                "?name(^postgresql-pl[a-z0-9]*-18$)",
            )
        ),
        own=("postgresql-18-", "postgresql-pl"),
    ),
    "old_libraries": Recipe(_OLD_LIBRARIES, added=_OLD_LIBRARIES),
}
LOADER_SAMPLE: Final = ("http", "pg_cron", "pgaudit", "pgvector", "plpython3")
"""The volumes whose modules are shown to the loader where not all packages are."""
