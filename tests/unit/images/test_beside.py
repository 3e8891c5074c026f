"""Volumes beside the one that is built, whoever made them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from instance_manager.errors import UsageError
from instance_manager.images.beside import Beside, take_all
from instance_manager.supervision.children import Children


def taken(source: Path, work: Path) -> Beside:
    """Return what a build would have beside it."""

    async def take() -> Beside:
        with Children() as children:
            return await take_all(children, [str(source)], work, "own")

    return asyncio.run(take())


@pytest.mark.parametrize("name", ["../far", "a/b", "Far", "x" * 60])
def test_one_that_no_server_could_have_is_refused(tmp_path: Path, name: str) -> None:
    """Its name would go into the metadata, whose list of what is required would be void."""
    described = tmp_path / "far/share/instance-manager/extension.json"
    described.parent.mkdir(parents=True)
    described.write_text(json.dumps({"name": name}))

    with pytest.raises(UsageError, match="is no name of a volume"):
        taken(tmp_path / "far", tmp_path / "work")

    described.write_text(json.dumps({"name": "near"}))
    assert [each.name for each in taken(tmp_path / "far", tmp_path / "work").neighbours] == [
        "near"
    ]
