"""What a build is asked for, what it handles, and what it has to tell.

Pure: values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from instance_manager.extensions.models import Finding  # noqa: TC001 - pydantic reads annotations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Form(StrEnum):
    """What is written: an image layout, that as one archive, or the volume as a directory."""

    LAYOUT = "oci"
    ARCHIVE = "oci-archive"
    DIRECTORY = "dir"


class Compression(StrEnum):
    """How a layer is compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"


class Target(NamedTuple):
    """Where a result goes, and in which form."""

    form: Form
    path: Path


@dataclass(frozen=True, slots=True)
class Request:
    """One build.

    *packages* are as apt takes them: ``NAME``, ``NAME=VERSION`` or ``NAME/SUITE``. *directory* is
    a tree that was installed into, beside them or in their place. *epoch* is None where the newest
    file of the extension is to say when the image was made.
    """

    name: str
    base: str
    packages: tuple[str, ...]
    directory: Path | None
    target: Target
    cache: Path
    major: int | None = None
    version: str | None = None
    bundled: frozenset[str] = frozenset()
    excluded: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    apt_options: tuple[str, ...] = ()
    host_sources: bool = False
    update: bool = True
    force: bool = False
    overwrite: bool = False
    epoch: int | None = None
    base_name: str = ""
    """What the base is called in the result; empty for what *base* says."""
    beside: tuple[str, ...] = ()
    """Other volumes, as ``extension test`` takes them: what they offer is not brought."""
    smoke_test: tuple[str, ...] = ()
    """SQL for the metadata, that only a smoke test runs."""
    compression: Compression = Compression.GZIP
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further fields of the metadata, which win over what the build finds."""


class Role(StrEnum):
    """What a package is to the volume."""

    OWN = "own"
    OTHER_EXTENSION = "other extension"
    LIBRARY = "library"


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was unpacked to *tree*; *control* is its own stanza.

    *links* are those that its alternatives would make: from a path to a path, both of the root.
    """

    name: str
    version: str
    architecture: str
    source: str
    maintainer: str
    control: str
    sha256: str
    tree: Path
    links: tuple[tuple[str, str], ...] = ()
    role: Role = Role.LIBRARY


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file of the volume comes from: a package's path; *note* says what was changed."""

    package: str
    path: str
    note: str = ""


class Added(BaseModel):
    """A library in ``system``, and who needs it; *opened* says that it is opened at run time."""

    model_config = ConfigDict(frozen=True)

    name: str
    package: str
    needed_by: str
    opened: bool
    size_bytes: int


class LeftOut(BaseModel):
    """Something that a package has and the volume does not, and why."""

    model_config = ConfigDict(frozen=True)

    what: str
    reason: str
    size_bytes: int = 0


class Summary(BaseModel):
    """What came of a build."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    postgres_major: int
    machine: str
    base: str
    output: str
    digest: str | None
    size_bytes: int
    compressed_bytes: int | None
    extensions: tuple[str, ...]
    requires: tuple[str, ...]
    packages: tuple[str, ...]
    libraries: tuple[Added, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass
class Ledger:
    """What is noted while a volume is made: origins by its paths, and what people want to know."""

    origins: dict[str, Origin] = field(default_factory=dict[str, Origin])
    libraries: list[Added] = field(default_factory=list[Added])
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])
    notes: list[str] = field(default_factory=list[str])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    requires: set[str] = field(default_factory=set[str])
