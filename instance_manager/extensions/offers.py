"""Who could help: what is said beside a finding about something that is not there.

Pure. Most managers have no catalogue, and read none of what it takes to use one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from instance_manager.extensions.facts import ServerFacts
    from instance_manager.settings.models import Settings

    Offers = Callable[[str], str]


def nothing(name: str) -> str:
    """Offer nothing for *name*."""
    del name
    return ""


def offers(settings: Settings, server: ServerFacts) -> Offers:
    """Return what names the image of the catalogue that has an extension, or is a volume."""
    if not settings.extensions.catalogued:
        return nothing
    from instance_manager.extensions.catalogue import Catalogue

    return Catalogue(settings, server).offer
