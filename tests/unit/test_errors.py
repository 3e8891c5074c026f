"""What errors say."""

from __future__ import annotations

import pytest

from instance_manager.errors import PreflightError, StartError, beside_server


def test_what_is_refused_beside_a_server_is_not_called_a_start() -> None:
    """Nothing is started by a reload, and the server goes on."""
    with pytest.raises(PreflightError) as caught, beside_server("reload"):
        raise PreflightError("cannot start postgres: EXT051 it is nowhere", hint="mount it")

    assert caught.value.message == (
        "cannot reload, the server goes on as it is: EXT051 it is nowhere"
    )
    assert caught.value.hint == "mount it"


def test_other_errors_pass() -> None:
    """They say themselves what could not be done."""
    with pytest.raises(StartError, match="no memory"), beside_server("reload"):
        raise StartError("no memory")
