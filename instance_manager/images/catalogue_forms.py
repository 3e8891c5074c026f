"""The catalogue of images in its two forms: ours, and CloudNativePG's.

Pure: entries in, documents out. Field names of the second: ``ClusterImageCatalog`` of
postgresql.cnpg.io/v1, whose images have extensions since version 1.29.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from instance_manager.errors import UsageError
from instance_manager.settings.catalogue import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from instance_manager.settings.catalogue import CatalogueImage

_VOLUME_FIELDS: Final = (
    *("extension_control_path", "dynamic_library_path", "ld_library_path", "bin_path"),
    "env",
)


def own_form(images: Sequence[CatalogueImage]) -> dict[str, Any]:
    """Return the document that ``extensions.catalogue`` reads."""
    # By name, so that two runs over the same images give the same document.
    ordered = sorted(
        images, key=lambda each: (each.name, each.postgres_major or 0, each.architecture)
    )
    return {"format": FORMAT, "images": [_dumped(each) for each in ordered]}


def _dumped(image: CatalogueImage) -> dict[str, Any]:
    dumped: dict[str, Any] = image.model_dump(mode="json", exclude_defaults=True)
    return dumped


def operator_form(
    name: str, images: Sequence[CatalogueImage], servers: Mapping[int, str]
) -> dict[str, Any]:
    """Return CloudNativePG's document.

    Args:
        name: what the catalogue is called.
        images: all of them; those without modules are for each server.
        servers: the server's image, by its major version.

    Raises:
        UsageError: it can't be said in that form.
    """
    majors = {each.postgres_major for each in images} - {None}
    if missing := sorted(f"{each}" for each in majors - set(servers)):
        raise UsageError(
            f"cannot write the catalogue: no server's image is given for PostgreSQL"
            f" {', '.join(missing)}",
            hint=f"--postgres-image {missing[0]}=IMAGE",
        )
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "ClusterImageCatalog",
        "metadata": {"name": name},
        "spec": {
            "images": [
                {
                    "major": major,
                    "image": server,
                    "extensions": [
                        _extension(each)
                        for each in _distinct(
                            [one for one in images if one.postgres_major in {major, None}]
                        )
                    ],
                }
                for major, server in sorted(servers.items())
            ]
        },
    }


def _distinct(images: Sequence[CatalogueImage]) -> Iterator[CatalogueImage]:
    """Yield them by name; there, two names are one where only ``-`` and ``_`` tell them apart."""
    seen: dict[str, str] = {}
    for each in sorted(images, key=lambda each: each.name):
        # Names of volumes in Kubernetes have no underscore: CloudNativePG replaces it.
        key = each.name.replace("_", "-")
        if key in seen:
            raise UsageError(
                f"cannot write the catalogue: {seen[key]!r} and {each.name!r} of one version"
                " would be one volume for CloudNativePG",
                hint="images for several machines are given as the one index that holds them",
            )
        seen[key] = each.name
        yield each


def _extension(image: CatalogueImage) -> dict[str, Any]:
    dumped = _dumped(image)
    fields = {key: dumped[key] for key in _VOLUME_FIELDS if dumped.get(key)}
    return {"name": image.name, "image": {"reference": image.image}, **fields}
