"""The configuration document is a source of settings, and the strongest one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from instance_manager.configuration.checks import CHECKS
from instance_manager.errors import Problem, SettingsError
from instance_manager.settings.configuration_document import (
    document_of,
    in_document,
    tag_of,
    text_of,
    with_document,
)
from instance_manager.settings.loading import load
from instance_manager.settings.sources import SettingsText

DOCUMENT: dict[str, Any] = {
    "parameters": {"work_mem": "8MB"},
    "shared_preload_libraries": ["a"],
    "hba": ["local all all peer"],
    "ident": [],
    "volumes": [{"name": "v", "required": True}],
    "databases": [{"name": "d", "extensions": [{"name": "e", "schema": "s"}]}],
}
FILE = "postgres: {port: 5433, parameters: {fsync: off}, ident: [m a b]}\n"


def loaded(document: str | None) -> SettingsText:
    """Return all sources, each with a say in the same keys."""
    return SettingsText(
        command_line={"postgres.parameters": '{"jit":"off"}'},
        file_name="f",
        file_text=FILE,
        document=document,
    )


def test_a_document_outdoes_every_other_source_in_its_keys_alone() -> None:
    """What it does not give is empty, whatever the file says."""
    settings = load(loaded(json.dumps({"parameters": {"work_mem": 8, "x.y": True}}))).settings

    assert settings.postgres.parameters == {"work_mem": "8", "x.y": "on"}
    assert settings.postgres.ident == ()
    assert settings.postgres.port == 5433


def test_without_a_document_the_other_sources_count() -> None:
    """As ever."""
    settings = load(loaded(None)).settings

    assert settings.postgres.parameters == {"jit": "off"}
    assert settings.postgres.ident == ("m a b",)


def test_settings_make_the_document_that_makes_them() -> None:
    """Both ways, and over a keeping."""
    settings = load(loaded(text_of(DOCUMENT))).settings

    assert document_of(settings) == DOCUMENT
    assert with_document(load(loaded(None)).settings, json.loads(text_of(DOCUMENT))) == settings


def test_the_tag_is_that_of_the_content() -> None:
    """Not of the order in which it was written."""
    turned = dict(reversed(list(DOCUMENT.items())))

    assert tag_of(turned) == tag_of(DOCUMENT)
    assert tag_of({**DOCUMENT, "hba": []}) != tag_of(DOCUMENT)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ('{"parametersx": {}}', "parametersx"),
        ('{"parameters": {"port": "1"}}', "parameters.port"),
        ('{"hba": ["a\\nb"]}', "hba.0"),
        ('{"databases": [{"name": ""}]}', "databases.0.name"),
        ('{"parameters": {"a.b": "x\\u0000"}}', "parameters.a.b"),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_what_is_wrong_is_told_by_its_place_in_the_document(document: str, path: str) -> None:
    """And not by the settings' longer names."""
    with pytest.raises(SettingsError) as caught:
        load(SettingsText(document=document), CHECKS)

    problems: list[Problem] = list(map(in_document, caught.value.problems))
    assert path in [problem.path for problem in problems]


def test_a_document_that_no_settings_made_is_refused() -> None:
    """By another version, for instance."""
    with pytest.raises(ValueError, match="colour"):
        with_document(load(SettingsText()).settings, DOCUMENT | {"volumes": [{"colour": "red"}]})
