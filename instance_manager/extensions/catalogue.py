"""What the catalogue of extension images says to one server.

Pure. An image for another major version or another machine is none that the server could use.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from instance_manager.extensions.facts import ServerFacts, VolumeFacts
    from instance_manager.extensions.models import Finding
    from instance_manager.settings.catalogue import CatalogueImage
    from instance_manager.settings.models import Settings

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Catalogue:
    """The images that *server* could use."""

    def __init__(self, settings: Settings, server: ServerFacts) -> None:
        # Images name machines as Go does (amd64), uname(2) as the kernel does; empty stands for
        # any.
        machines = {"", server.machine, _ARCHITECTURES.get(server.machine, server.machine)}
        fitting: list[CatalogueImage] = [
            each
            for each in settings.extensions.catalogued
            if each.postgres_major in {None, server.major} and each.architecture in machines
        ]
        # Of one name, the image that is for this server stands before those for others too.
        fitting.sort(key=lambda each: (each.postgres_major is None, not each.architecture))
        self._fitting = tuple(fitting)
        first: dict[str, CatalogueImage] = {}
        for each in fitting:
            first.setdefault(each.name, each)
        self._images = tuple(first.values())

    def descriptions(self) -> Mapping[str, Metadata]:
        """Return what stands in for the metadata of volumes that have none, by their names."""
        return {each.name: _metadata(each) for each in self._images}

    def offer(self, name: str) -> str:
        """Say which image has an extension, or is a volume, of this name; empty for none."""
        holders = (*self._with_extension(name), *self._called(name))
        if not holders:
            return ""
        image = holders[0]
        is_pinned = not image.digest or image.digest in image.image
        digest = "" if is_pinned else f" ({image.digest})"
        more = f", beside {', '.join(image.requires)}" if image.requires else ""
        return f'mount {image.image}{digest} of the catalogue as volume "{image.name}"{more}'

    def differences(self, volume: VolumeFacts) -> Iterator[Finding]:
        """Yield that a volume is of another version than each image that it may be made of.

        Only where the image says of itself that it is of the catalogue's name: the directory may
        be called anything.
        """
        said = dict(volume.metadata.provenance)
        version = said.get("version", "")
        named = [each for each in self._fitting if each.name == volume.name == said.get("name")]
        if (
            version
            and named
            and all(each.version and not _is_one(version, each.version) for each in named)
        ):
            image = named[0]
            message = f'volume "{volume.name}" is version {version} by its metadata, the catalogue'
            message += f" has version {image.version} ({image.image})"
            yield finding(Code.CATALOGUE_DIFFERS, volume.name, message)

    def _with_extension(self, name: str) -> Iterator[CatalogueImage]:
        """Yield the images that have it, the one with the fewest others first."""
        found = [each for each in self._images if name in each.extensions]
        # The image that holds little else changes the server least.
        yield from sorted(found, key=lambda each: len(each.extensions))

    def _called(self, name: str) -> Iterator[CatalogueImage]:
        yield from (each for each in self._images if each.name == name)


def _metadata(image: CatalogueImage) -> Metadata:
    said = (("name", image.name), ("version", image.version), ("source", image.image))
    return Metadata(
        extension_control_path=image.extension_control_path,
        dynamic_library_path=image.dynamic_library_path,
        ld_library_path=image.ld_library_path,
        bin_path=image.bin_path,
        env=tuple((each.name, each.value) for each in image.env),
        shared_preload_libraries=image.shared_preload_libraries,
        requires=image.requires,
        origin="the catalogue",
        # As long as what a volume's own metadata may say of its provenance.
        provenance=tuple((key, value[:200]) for key, value in said if value),
    )


def _is_one(version: str, other: str) -> bool:
    """Say whether two texts may mean one version: 0.8.7 may be 1:0.8.7-1.pgdg13+1, or v0.8.7."""
    short, long = sorted((version.removeprefix("v"), other.removeprefix("v")), key=len)
    # People write as much of a version as they care for, and a warning must not be a guess.
    whole = rf"(?<![0-9A-Za-z.])v?{re.escape(short)}(?![0-9A-Za-z])"
    return re.search(whole, long) is not None
