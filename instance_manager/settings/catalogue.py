"""The catalogue of extension images: what volumes can be made of, and what is in them.

Pure. ``instance-manager extension catalogue`` writes such a file, people and other tools may, too;
nothing in it is trusted further than the settings that name it.
"""

# No postponed annotations here: pydantic would evaluate each of them anew.

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, cast

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from instance_manager.errors import Problem, SettingsError
from instance_manager.settings.documents import parse_document
from instance_manager.settings.loading import problem_of
from instance_manager.settings.models import Section, VariableSettings
from instance_manager.settings.sources import text_problems

FORMAT: Final = 1
LIMIT_BYTES: Final = 1 << 20
"""A Kubernetes ConfigMap holds as much."""
KEY: Final = "extensions.catalogue"

_MAXIMUM_IMAGES: Final = 500
_MAXIMUM_ITEMS: Final = 64
_SHOWN: Final = 20
"""So many problems of one file are told."""

Text = Annotated[str, Field(max_length=1024)]
Texts = Annotated[tuple[Text, ...], Field(max_length=_MAXIMUM_ITEMS)]
Reference = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[!-~]+$")]
VolumeName = Annotated[str, Field(max_length=59, pattern=r"^[a-z0-9]([-a-z0-9_]*[a-z0-9])?$")]
Library = Annotated[str, Field(max_length=255, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")]
Extension = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^/]+$")]


class CatalogueImage(Section):
    """An image for one version and machine, and what the settings of its volume come to."""

    name: VolumeName
    """What its volume is called."""
    version: Text = ""
    """Its own version."""
    image: Reference
    """Where it is, as podman and Kubernetes take it."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """The digest of its manifest."""
    postgres_major: Annotated[int, Field(ge=10, le=99)] | None = None
    """The major version of PostgreSQL that it is for; none where it has no module."""
    architecture: Annotated[str, Field(pattern=r"^[a-z0-9_]{0,32}$")] = ""
    """The machine that it is for, as images name it; empty for any."""
    extension_control_path: Texts | None = None
    """As in the settings of a volume."""
    dynamic_library_path: Texts | None = None
    """As in the settings of a volume."""
    ld_library_path: Texts | None = None
    """As in the settings of a volume."""
    bin_path: Texts | None = None
    """As in the settings of a volume."""
    env: Annotated[tuple[VariableSettings, ...], Field(max_length=_MAXIMUM_ITEMS)] = ()
    """Variables that postgres gets."""
    shared_preload_libraries: Annotated[tuple[Library, ...], Field(max_length=64)] = ()
    """Libraries to load at the start, where the volume is listed."""
    requires: Annotated[tuple[Extension, ...], Field(max_length=_MAXIMUM_ITEMS)] = ()
    """Extensions of others, or volumes, that must be there too."""
    extensions: Annotated[Mapping[Extension, Text], Field(max_length=500)] = {}
    """Its extensions, and the version that each is created with."""

    @field_validator("*", mode="after")
    @classmethod
    def _printable(cls, value: Any, _: ValidationInfo) -> Any:
        for text in _texts_of(value):
            # The texts get into messages, search paths and variables.
            if not text.isprintable():
                raise ValueError("must hold printable text")
        return value


class Catalogue(Section):
    """The whole file."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    """Of this file: 1."""
    images: Annotated[tuple[CatalogueImage, ...], Field(max_length=_MAXIMUM_IMAGES)] = ()
    """In no order."""


def parse(text: str, file: str) -> tuple[CatalogueImage, ...]:
    """Return the images of a catalogue's text; *file* is its name, for messages.

    Raises:
        SettingsError: with what is wrong with it, and the lines.
    """
    document = parse_document(text, file)
    if document.problems:
        raise SettingsError([Problem(KEY, each.message) for each in document.problems])
    problems = [*text_problems("", document.values)]
    images: tuple[CatalogueImage, ...] = ()
    if not problems:
        try:
            images = Catalogue.model_validate(document.values).images
        except ValidationError as error:
            problems = [problem_of(each, "") for each in error.errors(include_url=False)]
        else:
            problems = [*_repeated(images)]
    if problems:
        told = (_told(each, file, document.lines) for each in problems[:_SHOWN])
        raise SettingsError([Problem(KEY, each) for each in told])
    return images


def _texts_of(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case VariableSettings():
            yield value.value
        case tuple():
            for one in value:  # pyright: ignore[reportUnknownVariableType]
                yield from _texts_of(one)
        case Mapping():
            for name, one in cast("Mapping[str, Any]", value).items():
                yield from (name, one)
        case _:
            pass


def _repeated(images: tuple[CatalogueImage, ...]) -> Iterator[Problem]:
    seen: set[tuple[str, int | None, str]] = set()
    for index, each in enumerate(images):
        identity = each.name, each.postgres_major, each.architecture
        if identity in seen:
            yield Problem(f"images.{index}.name", f"{each.name!r} is listed twice")
        seen.add(identity)


def _told(problem: Problem, file: str, lines: Mapping[str, int]) -> str:
    """Say where in the file it is: a key that is missing is missed where its map begins."""
    path = problem.path
    while path and path not in lines:
        path = path.rpartition(".")[0]
    place = f"{file}, line {lines[path]}" if path in lines else file
    return f"{problem.path or 'it'} {problem.message} ({place})"
