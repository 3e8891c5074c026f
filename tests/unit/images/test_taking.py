"""What is taken of an image's layers, whoever made them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from instance_manager.errors import UsageError
from instance_manager.images.taking import take
from instance_manager.supervision.children import Children

MINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
Member = tuple[str, str | None, str]
"""A name, where a link leads or None, and the content."""


def layer(*members: Member) -> bytes:
    """Return an archive of these."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, link, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info, io.BytesIO(content.encode()))
    return file.getvalue()


def blob(layout: Path, content: bytes) -> dict[str, Any]:
    """Write a blob; return how documents name it."""
    digest = hashlib.sha256(content).hexdigest()
    place = layout / "blobs/sha256" / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def image(layout: Path, layers: Sequence[bytes], title: str = "") -> dict[str, Any]:
    """Write an image; return how an index names it."""
    annotations = {"org.opencontainers.image.title": title} if title else {}
    manifest = {
        "config": blob(layout, b"{}"),
        "layers": [blob(layout, each) for each in layers],
        "annotations": annotations,
    }
    return blob(layout, json.dumps(manifest).encode())


def index(layout: Path, *images: Mapping[str, Any]) -> Path:
    """Write what makes it a layout."""
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"manifests": images}))
    return layout


def taken(layout: Path, work: Path) -> tuple[dict[str, str], str]:
    """Return the files that are there in the end, and the name of the volume."""
    # No program is run for a layout.
    root, name = asyncio.run(take(cast("Children", None), str(layout), work))
    files = (each for each in root.rglob("*") if each.is_file())
    return {str(each.relative_to(root)): each.read_text() for each in files}, name


def test_later_layers_change_and_take_away(tmp_path: Path) -> None:
    """A whiteout names what is gone; an opaque one all of a directory."""
    first = layer(("lib/a", None, "1"), ("lib/b", None, "1"), ("bin/c", None, "1"))
    second = layer(("lib/.wh.a", None, ""), ("lib/b", None, "2"), ("bin/.wh..wh..opq", None, ""))
    layout = index(tmp_path, image(tmp_path, [first, second], title="My thing"))

    assert taken(layout, tmp_path / "work") == ({"lib/b": "2"}, "My-thing")


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    """Neither by a name nor through a link, nor is anything taken away there."""
    (tmp_path / "kept").write_text("kept")
    odd = layer(
        ("../out", None, "x"),
        ("/etc/x", None, "inside"),
        ("link", str(tmp_path), ""),
        ("link/out", None, "x"),
        ("link/.wh.kept", None, ""),
        ("../.wh.kept", None, ""),
    )
    layout = index(tmp_path, image(tmp_path, [odd], title="x"))
    taken(layout, tmp_path / "work")

    assert (tmp_path / "kept").read_text() == "kept"
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "work/files/etc/x").read_text() == "inside"


def test_the_image_for_this_machine_is_taken(tmp_path: Path) -> None:
    """Of several; where there is none for it, that is said."""
    images = {
        each: {
            **image(tmp_path, [layer((each, None, ""))], title=each),
            "platform": {"architecture": each},
        }
        for each in ("s390x", MINE, "riscv64")
    }
    layout = index(tmp_path, *images.values())

    assert taken(layout, tmp_path / "work")[1] == MINE
    with pytest.raises(UsageError, match="2 images, and none for"):
        taken(index(tmp_path, images["s390x"], images["riscv64"]), tmp_path / "other")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"manifests": []}',
        b'{"manifests": [1]}',
        b'{"manifests": [{"digest": "sha256:../../etc/passwd"}]}',
        b'{"layers": 1}',
    ],
)
def test_what_is_no_layout_is_refused(tmp_path: Path, content: bytes) -> None:
    """With an error for users, whatever stands in it."""
    index(tmp_path)
    (tmp_path / "index.json").write_bytes(content)

    with pytest.raises(UsageError, match="no whole OCI layout"):
        taken(tmp_path, tmp_path / "work")
