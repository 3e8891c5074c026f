"""Content hashes of all volumes of a report: every byte is read, so only when there is time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from instance_manager.extensions.fingerprint import content_sha256

if TYPE_CHECKING:
    from instance_manager.extensions.models import ExtensionsReport


def with_content_hashes(report: ExtensionsReport) -> ExtensionsReport:
    """Return the report with the hash of each volume that can be read."""
    volumes = tuple(
        volume.model_copy(update={"content_sha256": _hash_of(Path(volume.path))})
        for volume in report.volumes
    )
    return report.model_copy(update={"volumes": volumes})


def _hash_of(volume: Path) -> str | None:
    try:
        return content_sha256(volume)
    except OSError:
        # Why it can't be read is a finding already.
        return None
