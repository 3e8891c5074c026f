"""Images in the layout of CloudNativePG's extension images, as they are, under our manager.

They are made from packages by ``tests/container/cloudnativepg``: with bitcode, third-party
libraries in ``system`` and licences, and without a word of metadata.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.container.conftest import CHECKOUT, MAJOR, PREFIX, Cluster, Images, Podman

if TYPE_CHECKING:
    from tests.container.conftest import Operand

CONTEXT: Final = CHECKOUT / "tests/container/cloudnativepg"
BUILD_SECONDS: Final = 800
NAMES: Final = ("pgaudit", "pgvector", "postgis")
# As CloudNativePG's metadata has it: an empty list leaves the default.
FIELDS: Final = [
    {"name": "pgvector", "extension_control_path": ["share"], "dynamic_library_path": ["lib"]},
    {"name": "pgaudit", "required": True},
    {
        "name": "postgis",
        "extension_control_path": ["share"],
        "dynamic_library_path": ["lib"],
        "ld_library_path": ["system"],
        "env": [
            {"name": "GDAL_DATA", "value": "${image_root}/share/gdal"},
            {"name": "PROJ_DATA", "value": "${image_root}/share/proj"},
        ],
    },
]
VERSION: Final = "SELECT postgis_full_version()"


@pytest.fixture(scope="module")
def foreign_made(podman: Podman, images: Images) -> dict[str, str]:
    """Return the images; the layers stay for the next run."""
    made: dict[str, str] = {}
    for name in NAMES:
        made[name] = f"{PREFIX}/cloudnativepg/{name}:{MAJOR}"
        podman(
            *("build", "--quiet", "--network=host", "--pull=never"),
            *("--ulimit=nofile=1024:1024", "--ulimit=nproc=10000:10000"),
            *(f"--build-arg=BASE={images.operand}", f"--build-arg=PG_MAJOR={MAJOR}"),
            *(f"--target={name}", f"--tag={made[name]}", str(CONTEXT)),
            seconds=BUILD_SECONDS,
        ).checked()
    return made


def started(cluster: Cluster, extensions: dict[str, str], *options: str) -> Operand:
    """Return a server with the volumes, pgAudit preloaded, once it is ready."""
    return cluster.run(
        '--env=INSTANCE_MANAGER_POSTGRES__SHARED_PRELOAD_LIBRARIES=["pgaudit"]',
        *options,
        extensions=extensions,
    ).wait_ready()


def test_images_in_cloudnativepgs_layout_work_unmodified(
    cluster: Cluster, podman: Podman, foreign_made: dict[str, str]
) -> None:
    """With the fields that CloudNativePG has for them: nothing is found, and all can be used."""
    fields = f"--env=INSTANCE_MANAGER_EXTENSIONS__VOLUMES={json.dumps(FIELDS)}"

    operand = started(cluster, foreign_made, fields)

    report = operand.get_json("/v1/extensions")
    found = [each for one in report["volumes"] for each in one["findings"]]
    assert [(one["name"], one["state"]) for one in report["volumes"]] == [
        ("pgvector", "ready"),
        ("pgaudit", "ready"),
        ("postgis", "ready"),
    ]
    assert [each for each in found if each["severity"] == "error"] == []
    assert report["composed"]["ld_library_path"] == "/extensions/postgis/system"
    assert report["composed"]["env"]["PROJ_DATA"] == "/extensions/postgis/share/proj"
    use_vector_and_audit(operand)
    use_postgis(operand)
    files = podman.image_files(foreign_made["pgvector"])
    assert [file for file in files if "instance-manager" in file] == []
    assert [file for file in files if file.startswith("lib/bitcode/")] != []


def test_images_in_cloudnativepgs_layout_work_without_a_setting(
    cluster: Cluster, foreign_made: dict[str, str]
) -> None:
    """The libraries in ``system`` are found by themselves; the fields need not be told."""
    operand = started(cluster, foreign_made)

    operand.sql("CREATE EXTENSION postgis")

    assert operand.sql("SELECT ST_AsText(ST_Buffer('POINT(0 0)'::geometry, 1, 1))") == (
        "POLYGON((1 0,0 -1,-1 0,0 1,1 0))"
    )
    composed = operand.get_json("/v1/extensions")["composed"]
    assert composed["ld_library_path"] == "/extensions/postgis/system"


def use_vector_and_audit(operand: Operand) -> None:
    """Use pgvector, and see that pgAudit told of it."""
    operand.sql("CREATE EXTENSION vector; CREATE EXTENSION pgaudit")
    told = operand.psql(
        "SET client_min_messages = log; SET pgaudit.log_client = on; SET pgaudit.log = 'read';"
        " SELECT '[1,2]'::vector <-> '[1,5]'"
    ).checked()
    assert told.out.strip() == "3"
    assert "AUDIT: SESSION" in told.error


def use_postgis(operand: Operand) -> None:
    """Use what needs PROJ's and GDAL's data, and the update that loads a library by its name."""
    for extension in ("postgis", "postgis_raster", "postgis_sfcgal", "postgis_topology"):
        operand.sql(f"CREATE EXTENSION {extension}")
    point = "ST_X(ST_Transform(ST_SetSRID(ST_Point(13.4, 52.5), 4326), 3857))"
    assert operand.sql(f"SELECT round({point})") == "1491681"
    version = operand.sql(VERSION)
    assert "/extensions/postgis/share/proj/proj.db" in version
    assert "GDAL_DATA not found" not in version
    operand.sql("ALTER EXTENSION postgis UPDATE TO 'ANY'")
    operand.sql("ALTER EXTENSION postgis UPDATE")
    assert operand.sql(VERSION) == version
