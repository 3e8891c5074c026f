from __future__ import annotations

from pathlib import Path

import pytest

from instance_manager.errors import SettingsError
from instance_manager.settings.catalogue import LIMIT_BYTES, parse
from instance_manager.settings.files import load_settings

DIGEST = "sha256:" + "a" * 64
WHOLE = f"""\
format: 1
images:
  - name: postgis
    version: 3.6.4-1
    image: registry.example/postgis:18@{DIGEST}
    digest: {DIGEST}
    postgres_major: 18
    architecture: amd64
    ld_library_path: [system]
    env: [{{name: PROJ_DATA, value: "${{image_root}}/share/proj"}}]
    shared_preload_libraries: [postgis-3]
    requires: [gdal]
    extensions: {{postgis: 3.6.4}}
"""


def _problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(text, "/catalogue.yaml")
    assert {each.path for each in caught.value.problems} == {"extensions.catalogue"}
    return [each.message for each in caught.value.problems]


def test_every_field_is_read() -> None:
    """Versions stay the text that they are."""
    (image,) = parse(WHOLE, "c.yaml")

    assert (image.name, image.postgres_major, image.digest) == ("postgis", 18, DIGEST)
    assert image.extensions == {"postgis": "3.6.4"}
    assert image.env[0].value == "${image_root}/share/proj"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "format is not given (/catalogue.yaml)"),
        ("- 1", "cannot read /catalogue.yaml: must be a map of keys"),
        ("format: 2", "format must be at most 1, not '2' (/catalogue.yaml, line 1)"),
        ("format: 1\nimages:\n- {name: x}", "images.0.image is not given"),
        (
            WHOLE.replace("version:", "edition:"),
            "images.0.edition unknown key (/catalogue.yaml, l",
        ),
        (WHOLE.replace("name: postgis", "name: ../x"), "images.0.name "),
        (WHOLE.replace("[postgis-3]", "[/tmp/x]"), "images.0.shared_preload_libraries.0 "),
        (WHOLE.replace("PROJ_DATA", "LD_PRELOAD"), "images.0.env.0.name "),
        (WHOLE.replace("[gdal]", '["a\\tb"]'), "images.0.requires must hold printable text"),
        (WHOLE.replace("/share/proj", r"\e[2J"), "images.0.env must hold printable text"),
        (WHOLE.replace(f"digest: {DIGEST}", "digest: md5:0"), "images.0.digest "),
        (WHOLE + WHOLE[WHOLE.index("  - name") :], "images.1.name 'postgis' is listed twice"),
        ("a: &a [1]\nb: " + "[" * 20 + "]" * 20, "nested too deeply"),
        ('format: 1\nimages: ["\\0"]', "images.0 must not hold a NUL character"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, told: str) -> None:
    """Whatever somebody wrote into it, it is a message and no exception."""
    assert told in "\n".join(_problems(text))


def test_many_problems_are_told_in_part() -> None:
    """A file that is none at all fills no log."""
    assert len(_problems("format: 1\nimages:\n" + "- {}\n" * 400)) == 20
    assert _problems("format: 1\nimages:\n" + "- {name: a, image: b}\n" * 501)


def test_the_settings_hold_what_the_file_does(tmp_path: Path) -> None:
    """One that is absent, a directory or too large is a problem of the key, with the path."""
    place = tmp_path / "catalogue.yaml"
    variables = {"INSTANCE_MANAGER_EXTENSIONS__CATALOGUE": str(place)}
    place.write_text(WHOLE)
    loaded = load_settings(variables, config=None)
    assert [each.name for each in loaded.settings.extensions.catalogued] == ["postgis"]

    place.write_text("#" * (LIMIT_BYTES + 1))
    _refused(variables, str(place))
    place.unlink()
    _refused(variables, str(place))
    place.mkdir()
    _refused(variables, str(place))


def test_what_was_read_before_stands_in_for_a_file_that_broke(tmp_path: Path) -> None:
    """Of the same file alone, and as often as it takes; what is mended counts."""
    place, other = tmp_path / "catalogue.yaml", tmp_path / "other.yaml"
    variables = {"INSTANCE_MANAGER_EXTENSIONS__CATALOGUE": str(place)}
    place.write_text(WHOLE)
    last = load_settings(variables).settings
    place.write_text("format: 1\nimages: [{}]")
    for _ in range(2):
        last = load_settings(variables, last=last).settings
        assert [each.name for each in last.extensions.catalogued] == ["postgis"]
        assert last.extensions.catalogue_fault == (
            f"images.0.name is not given ({place}, line 2), and 1 more"
        )
    with pytest.raises(SettingsError, match=str(other)):
        load_settings({"INSTANCE_MANAGER_EXTENSIONS__CATALOGUE": str(other)}, last=last)
    place.write_text("format: 1")
    mended = load_settings(variables, last=last).settings.extensions
    assert (mended.catalogued, mended.catalogue_fault) == ((), "")


def _refused(variables: dict[str, str], place: str) -> None:
    with pytest.raises(SettingsError, match=place) as caught:
        load_settings(variables, config=None)
    assert caught.value.problems[0].path == "extensions.catalogue"
