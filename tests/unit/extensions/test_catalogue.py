from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.offers import nothing, offers
from instance_manager.extensions.scan import examine
from instance_manager.settings.catalogue import parse
from instance_manager.settings.models import Settings

SERVER = ServerFacts(18, "x86_64", libraries=frozenset(), extensions=frozenset())
CATALOGUE = f"""\
format: 1
images:
  - {{name: geo, image: "r/geo:18", postgres_major: 18, architecture: amd64,
      extensions: {{postgis: 3.6.4, h3: 4.2.3}}}}
  - {{name: gis, image: "r/gis:18", digest: "sha256:{"b" * 64}", postgres_major: 18,
      architecture: amd64, requires: [gdal], extensions: {{postgis: 3.6.4}},
      env: [{{name: GDAL_DATA, value: "${{image_root}}/g"}}],
      extension_control_path: [other]}}
  - {{name: gis, image: "r/gis:17", postgres_major: 17, extensions: {{old: 1}}}}
  - {{name: early, image: "r/early:18", shared_preload_libraries: [early]}}
  - {{name: arm, image: "r/arm:18", architecture: arm64, extensions: {{arm: 1}}}}
"""


def _settings(root: Path, *volumes: dict[str, Any]) -> Settings:
    settings = Settings.model_validate({"extensions": {"root": str(root), "volumes": volumes}})
    images = parse(CATALOGUE, "c")
    extensions = settings.extensions.model_copy(update={"catalogued": images})
    return settings.model_copy(update={"extensions": extensions})


def _examined(settings: Settings) -> Any:
    return examine(settings, SERVER, base_path="/bin", base_ld_library_path=None)


def test_an_offer_names_image_and_digest_and_fits_the_server(tmp_path: Path) -> None:
    """The image with the fewest other extensions comes first; of a name, that of the volume."""
    offered = offers(_settings(tmp_path), SERVER)

    assert offered("postgis") == (
        f'mount r/gis:18 (sha256:{"b" * 64}) of the catalogue as volume "gis", beside gdal'
    )
    assert offered("geo") == 'mount r/geo:18 of the catalogue as volume "geo"'
    assert (offered("old"), offered("arm"), offered("")) == ("", "", "")
    assert offers(Settings(), SERVER) is nothing
    assert nothing("postgis") == ""


def test_a_listed_volume_that_is_absent_is_offered(tmp_path: Path) -> None:
    """Required or not; what no image has keeps its own hint."""
    settings = _settings(tmp_path, {"name": "gis", "required": True}, {"name": "unknown"})
    missing, unknown = _examined(settings).report.findings

    assert missing.code == "EXT009"
    assert missing.hint.startswith("mount r/gis:18 (sha256:bbb")
    assert "catalogue" not in unknown.hint


def test_what_a_control_file_requires_is_offered(tmp_path: Path) -> None:
    """The image that has the extension is named."""
    place = tmp_path / "mine/share/extension"
    place.mkdir(parents=True)
    (place / "mine.control").write_text("default_version = '1'\nrequires = 'h3'\n")
    (place / "mine--1.sql").write_text("")
    (volume,) = _examined(_settings(tmp_path)).report.volumes
    (found,) = [each for each in volume.findings if each.code == "EXT015"]

    assert found.hint == 'mount r/geo:18 of the catalogue as volume "geo"'


def _without_metadata(root: Path) -> None:
    for directory in ("share", "other", "own"):
        place = root / "gis" / directory / "extension"
        place.mkdir(parents=True)
        (place / f"{directory}.control").write_text("default_version = '1'\n")
        (place / f"{directory}--1.sql").write_text("")


def test_the_catalogue_describes_a_volume_that_does_not_describe_itself(tmp_path: Path) -> None:
    """Its metadata count more, and the settings most."""
    _without_metadata(tmp_path)
    place = f"{tmp_path}/gis"

    composed = _examined(_settings(tmp_path)).report.composed
    assert composed.extension_control_path == f"$system:{place}/other"
    assert composed.env == {"GDAL_DATA": f"{place}/g"}

    own = _settings(tmp_path, {"name": "gis", "extension_control_path": ["own"]})
    assert _examined(own).report.composed.extension_control_path == f"$system:{place}/own"

    described = tmp_path / "gis/share/instance-manager/extension.json"
    described.parent.mkdir()
    described.write_text("{}")
    composed = _examined(_settings(tmp_path)).report.composed
    assert composed.extension_control_path == f"$system:{place}/share"
    assert composed.env == {}


def test_an_image_for_another_server_describes_nothing(tmp_path: Path) -> None:
    """A server of another version keeps the defaults."""
    _without_metadata(tmp_path)
    other = SERVER._replace(major=19)
    composed = examine(
        _settings(tmp_path), other, base_path="", base_ld_library_path=None
    ).report.composed

    assert composed.extension_control_path == f"$system:{tmp_path}/gis/share"


def test_of_images_of_one_name_the_one_for_this_server_counts(tmp_path: Path) -> None:
    """Whatever their order is; the hint names the one whose paths are used."""
    _without_metadata(tmp_path)
    entries = [
        "- {name: gis, image: any, extension_control_path: [share], extensions: {postgis: 1}}",
        (
            "- {name: gis, image: mine, postgres_major: 18, architecture: amd64,"
            " extension_control_path: [other], extensions: {postgis: 2}}"
        ),
        (
            "- {name: gis, image: major, postgres_major: 18, extension_control_path: [share],"
            " extensions: {postgis: 1}}"
        ),
    ]
    for order in permutations(entries):
        images = parse("\n".join(["format: 1", "images:", *order]), "c")
        settings = _settings(tmp_path)
        extensions = settings.extensions.model_copy(update={"catalogued": images})
        settings = settings.model_copy(update={"extensions": extensions})
        composed = _examined(settings).report.composed

        assert composed.extension_control_path == f"$system:{tmp_path}/gis/other"
        for name in ("gis", "postgis"):
            assert offers(settings, SERVER)(name).startswith("mount mine of")


def test_a_library_that_the_catalogue_wants_loaded_must_be_there(tmp_path: Path) -> None:
    """As one that metadata asks for."""
    place = tmp_path / "early/share/extension"
    place.mkdir(parents=True)
    (place / "early.control").write_text("default_version = '1'\n")
    (place / "early--1.sql").write_text("")
    (volume,) = _examined(_settings(tmp_path, {"name": "early"})).report.volumes

    told = {each.code: each.message for each in volume.findings}
    assert told["EXT021"].startswith('the catalogue asks for library "')


def test_of_a_volume_that_is_not_listed_the_catalogue_takes_nothing_away(tmp_path: Path) -> None:
    """A library that it wrongly wants loaded is a warning; one that is there is asked for."""
    place = tmp_path / "early/share/extension"
    place.mkdir(parents=True)
    (place / "early.control").write_text("default_version = '1'\n")
    (place / "early--1.sql").write_text("")
    own = tmp_path / "server"
    own.mkdir()
    server = SERVER._replace(library_directory=str(own))

    def told() -> dict[str, str]:
        report = examine(
            _settings(tmp_path), server, base_path="/bin", base_ld_library_path=None
        ).report
        (volume,) = (each for each in report.volumes if each.name == "early")
        assert volume.state == "ready"
        return {each.code: each.message for each in report.findings}

    assert told() == {
        "EXT028": 'the catalogue asks for library "early" of volume "early", which is not in'
        " dynamic_library_path"
    }
    (own / "early.so").write_text("")
    assert told() == {
        "EXT050": 'library "early" of volume "early" must be in shared_preload_libraries, as the'
        " catalogue says, but it is not listed"
    }


@pytest.mark.parametrize(
    ("own", "catalogued", "is_told"),
    [
        ("3.6.3-1", "3.6.4-1", True),
        ("3.6.1", "3.6.10", True),
        ("6.4", "3.6.4", True),
        ("3.6.4-1", "3.6.4-2", True),
        ("3.6.4-1", "3.6.4-1", False),
        ("3.6.4", "3.6.4-1.pgdg13+1", False),
        ("1:3.6.4+dfsg-1", "3.6.4", False),
        ("v3.6.4", "3.6.4-1", False),
        ("3.6.4", "pg18-v3.6.4", False),
        ("3.6.4", "", False),
        (None, "3.6.4", False),
    ],
)
def test_a_volume_of_another_version_than_the_catalogues_is_told(
    tmp_path: Path, own: str | None, catalogued: str, *, is_told: bool
) -> None:
    """As a warning; texts that may mean the same version are no difference."""
    told = _differences(tmp_path, {"name": "gis", "version": own}, catalogued)

    message = f'volume "gis" is version {own} by its metadata, the catalogue has version'
    assert told == ([f"{message} {catalogued} (r/gis:18)"] if is_told else [])


def test_another_version_is_told_of_the_volume_of_an_entrys_name_alone(tmp_path: Path) -> None:
    """Not of one that calls itself otherwise; one of several entries is enough."""
    other = "- {name: gis, image: r/any, version: '1'}"
    foreign = "- {name: gis, image: r/old, version: '1', postgres_major: 17}"

    assert _differences(tmp_path / "a", {"version": "1"}, "2") == []
    assert _differences(tmp_path / "b", {"name": "geo", "version": "1"}, "2") == []
    assert _differences(tmp_path / "c", {"name": "gis", "version": "1"}, "2", other) == []
    assert _differences(tmp_path / "d", {"name": "gis", "version": "1"}, "2", foreign)
    assert _differences(tmp_path / "e", {"name": "gis", "version": "3"}, "2", other) == [
        'volume "gis" is version 3 by its metadata, the catalogue has version 2 (r/gis:18)'
    ]


def _differences(
    root: Path, metadata: dict[str, str | None], version: str, *entries: str
) -> list[str]:
    _without_metadata(root)
    described = root / "gis/share/instance-manager/extension.json"
    described.parent.mkdir()
    described.write_text(json.dumps(metadata))
    entry = f"- {{name: gis, image: 'r/gis:18', postgres_major: 18, version: '{version}'}}"
    images = parse("\n".join(["format: 1", "images:", entry, *entries]), "c")
    settings = _settings(root)
    extensions = settings.extensions.model_copy(update={"catalogued": images})
    report = _examined(settings.model_copy(update={"extensions": extensions})).report
    (volume,) = report.volumes
    assert volume.state == "ready"
    return [each.message for each in volume.findings if each.code == "EXT028"]
