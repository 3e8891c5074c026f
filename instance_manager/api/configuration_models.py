"""The documents of the configuration: what it is, and what a change of it comes to.

Annotations are read at run time, so they are not postponed here.
"""

from typing import Any

from pydantic import Field

from instance_manager.api.models import Document
from instance_manager.configuration.plan import Action


class ConfigurationDocument(Document):
    """The configuration document; each key is as in the settings, and empty where it is left out.

    Known secrets are shown as ``********``; sent back at its place, that stands for the secret.
    """

    parameters: dict[str, str] = Field(default_factory=dict[str, str])
    """``postgres.parameters``: names and values, as text."""
    shared_preload_libraries: tuple[str, ...] = ()
    """``postgres.shared_preload_libraries``: names, in their order."""
    hba: tuple[str, ...] = ()
    """``postgres.hba``: lines of pg_hba.conf."""
    ident: tuple[str, ...] = ()
    """``postgres.ident``: lines of pg_ident.conf."""
    volumes: tuple[dict[str, Any], ...] = ()
    """``extensions.volumes``: order and overrides."""
    databases: tuple[dict[str, Any], ...] = ()
    """``databases``: databases and their extensions."""


class ParameterChange(Document):
    """One parameter: what was configured, what is now, and what it takes to be used."""

    name: str
    """The parameter."""
    old: str | None
    """Null where it was not set by us."""
    new: str | None
    """Null where it is not set by us any more: the server's default counts then."""
    action: Action
    """``reload`` is done at once; ``restart`` waits for one."""


class ConfigurationResult(Document):
    """What a ``PUT`` has changed, or would change with ``dry_run``."""

    etag: str
    """The tag of the document that was sent, without quotes."""
    dry_run: bool
    """Whether it was only tried."""
    changes: tuple[ParameterChange, ...]
    """The parameters that the server is told otherwise, those composed of volumes too."""
    sections: tuple[str, ...]
    """Which of ``hba``, ``ident``, ``volumes`` and ``databases`` change."""
    action: Action
    """What the whole takes: ``none``, ``reload``, or ``restart``."""
    overridden: tuple[str, ...] = ()
    """Parameters of the document that don't count, since what the server reads later, such as what
    ``ALTER SYSTEM`` wrote, sets them too; empty for a dry run."""
