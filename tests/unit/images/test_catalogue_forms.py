from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from instance_manager.errors import UsageError
from instance_manager.images.catalogue_forms import operator_form, own_form
from instance_manager.settings.catalogue import CatalogueImage, parse

SCHEMA = json.loads((Path(__file__).parent / "cluster_image_catalog.json").read_text())
DIGEST = "sha256:" + "a" * 64
POSTGIS = CatalogueImage.model_validate(
    {
        "name": "postgis",
        "version": "3.6.4-1",
        "image": f"r/postgis:18@{DIGEST}",
        "digest": DIGEST,
        "postgres_major": 18,
        "architecture": "amd64",
        "extension_control_path": ["share"],
        "dynamic_library_path": ["lib"],
        "ld_library_path": ["system"],
        "bin_path": ["bin"],
        "env": [{"name": "PROJ_DATA", "value": "${image_root}/share/proj"}],
        "shared_preload_libraries": ["postgis-3"],
        "requires": ["gdal"],
        "extensions": {"postgis": "3.6"},
    }
)
DATA = CatalogueImage(name="data_only", image="r/data:1")
OLD = CatalogueImage(name="postgis", image="r/postgis:17", postgres_major=17)


def _operator(*images: CatalogueImage, **servers: str) -> dict[str, Any]:
    return operator_form("set", images, {int(key[1:]): value for key, value in servers.items()})


def test_our_form_is_read_again_as_it_was() -> None:
    """Written as YAML and read by the settings: versions stay text, nothing is lost."""
    text = yaml.safe_dump(own_form([POSTGIS, DATA, OLD]))

    assert parse(text, "c") == (DATA, OLD, POSTGIS)


def test_the_operators_form_is_valid_by_its_own_schema() -> None:
    """Each server has its images, and those without a module; no field is unknown there."""
    document = _operator(POSTGIS, DATA, OLD, v18="r/pg:18", v17="r/pg:17")
    jsonschema_rs.validate(SCHEMA, document)

    old, new = document["spec"]["images"]
    assert (old["major"], new["major"], new["image"]) == (17, 18, "r/pg:18")
    assert [each["name"] for each in old["extensions"]] == ["data_only", "postgis"]
    assert new["extensions"][1] == {
        "name": "postgis",
        "image": {"reference": f"r/postgis:18@{DIGEST}"},
        "extension_control_path": ["share"],
        "dynamic_library_path": ["lib"],
        "ld_library_path": ["system"],
        "bin_path": ["bin"],
        "env": [{"name": "PROJ_DATA", "value": "${image_root}/share/proj"}],
    }


def test_the_schema_would_tell_a_field_of_ours() -> None:
    """It is closed: a name that the operator does not have fails."""
    document = _operator(DATA, v18="r/pg:18")
    document["spec"]["images"][0]["extensions"][0]["requires"] = ["x"]

    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(SCHEMA, document)


def test_what_the_operator_can_not_hold_is_refused() -> None:
    """A version without a server's image, and names that would be one volume there."""
    with pytest.raises(UsageError, match="no server's image is given for PostgreSQL 17"):
        _operator(POSTGIS, OLD, v18="r/pg:18")
    twin = DATA.model_copy(update={"name": "data-only"})
    with pytest.raises(UsageError, match=r"'data-only' and 'data_only' .* one volume"):
        _operator(DATA, twin, v18="r/pg:18")
