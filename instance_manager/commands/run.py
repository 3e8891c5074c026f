"""``run``: the entrypoint of the container."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from instance_manager import termination_log
from instance_manager.commands import loading
from instance_manager.errors import InstanceManagerError
from instance_manager.postgres.process import keep_shared_memory_out_of_cores
from instance_manager.run import run as run_manager
from instance_manager.surroundings import forget_secrets, survey

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Run the manager until it may end; a start that is refused leaves its cause behind."""
    keep_shared_memory_out_of_cores()
    try:
        load = loading.loader(options)
        surroundings = survey(load, dict(os.environ))
        # After they are read, and before anything inherits the environment.
        forget_secrets(os.environ)
        return run_manager(surroundings)
    except InstanceManagerError as error:
        # Kubernetes shows this file as the reason why the container ended.
        termination_log.write(error)
        raise
