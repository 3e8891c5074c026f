"""The managers of the integration tests, for tests that look at their processes."""

from __future__ import annotations

from tests.integration.conftest import manager, server, workspace

__all__ = ["manager", "server", "workspace"]
