"""``openapi``: the description of the API, as a running manager serves it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from instance_manager.api.openapi import served
from instance_manager.errors import Exit

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Print the document, byte for byte as it is served."""
    del options
    # Bytes: a terminal's encoding must not change the document.
    sys.stdout.buffer.write(served())
    sys.stdout.buffer.flush()
    return Exit.DONE
