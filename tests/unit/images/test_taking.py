"""What is taken of an image's layers, whoever made them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from instance_manager.errors import UsageError
from instance_manager.images import layers
from instance_manager.images.taking import take
from instance_manager.supervision.children import Children

MINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
BLOCK = 128 << 10
NO_NUMBER = b"21 GNU.sparse.size=a\n".ljust(512, b"\0")
needs_zstd = pytest.mark.skipif(
    sys.version_info < (3, 14) and not shutil.which("zstd"), reason="there is no zstd here"
)
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

    async def take_it() -> tuple[Path, str]:
        with Children() as children:
            return await take(children, str(layout), work)

    root, name = asyncio.run(take_it())
    files = (each for each in root.rglob("*") if each.is_file())
    return {str(each.relative_to(root)): each.read_text() for each in files}, name


def taken_of(tmp_path: Path, *layers: bytes) -> dict[str, str]:
    """Return the files of an image of these layers."""
    layout = tmp_path / "layout"
    layout.mkdir()
    return taken(index(layout, image(layout, layers)), tmp_path / "work")[0]


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    """Return the header of a file in an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


def zstd(content: bytes, *, repeated: int = 0) -> bytes:
    """Return a frame of zstd (RFC 8878): *content* as it is, then blocks of 128 KiB of zeros."""
    raw = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    blocks = [((len(each) << 3).to_bytes(3, "little"), each) for each in raw]
    blocks += [((BLOCK << 3 | 2).to_bytes(3, "little"), b"\0")] * repeated
    size = (len(content) + repeated * BLOCK).to_bytes(8, "little")
    end = b"\x01\0\0"
    # A window of 128 KiB, and the size of the content.
    return b"".join((b"\x28\xb5\x2f\xfd\xc0\x38", size, *map(b"".join, blocks), end))


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


@needs_zstd
def test_layers_of_zstd_are_taken(tmp_path: Path) -> None:
    """By Python's own module where it has one, else by the program."""
    plain = gzip.decompress(layer(("lib/a", None, "1" * 300_000)))

    assert taken_of(tmp_path, zstd(plain)) == {"lib/a": "1" * 300_000}


def test_without_zstd_it_is_said_what_would_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the module and the program are named."""
    monkeypatch.setenv("PATH", "/nowhere")
    # None in the place of a module is how Python remembers that there is none.
    monkeypatch.setitem(sys.modules, "compression.zstd", None)

    with pytest.raises(UsageError, match=r"compression\.zstd \(3\.14\) nor the program zstd"):
        taken_of(tmp_path, zstd(b""))


@needs_zstd
@pytest.mark.parametrize("cut", [20, 1000])
def test_a_layer_of_zstd_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    """Wherever it ends."""
    whole = zstd(gzip.decompress(layer(("lib/a", None, "1" * 3000))))

    with pytest.raises(UsageError, match="cannot use"):
        taken_of(tmp_path, whole[:cut])


def compressed_by_gzip(content: bytes) -> bytes:
    return gzip.compress(content + bytes(2 << 20))


def compressed_by_zstd(content: bytes) -> bytes:
    return zstd(content, repeated=16)


@pytest.mark.parametrize(
    "compress", [compressed_by_gzip, pytest.param(compressed_by_zstd, marks=needs_zstd)]
)
@pytest.mark.parametrize(
    ("start", "said"),
    [
        (header("a", size=2 << 20), "more than 1 MiB"),
        (header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2 << 20), "header without end"),
        (b"".join(header(str(number)) for number in range(30)), "more than 20 files"),
        (header("/".join("a" * 40) + "/x"), ""),
    ],
)
def test_what_a_layer_may_hold_is_bounded(
    tmp_path: Path, start: bytes, said: str, compress: Callable[[bytes], bytes]
) -> None:
    """Bytes, files, and the length of names, while it is read."""
    place = tmp_path / "layer"
    place.write_bytes(compress(start))

    async def read() -> list[str]:
        budget = layers.Budget(size=1 << 20, entries=20)
        with Children() as children:
            async with layers.opened(children, place, budget) as archive:
                return [member.name for member in layers.entries(archive, budget)]

    if said:
        with pytest.raises(layers.LayerError, match=said):
            asyncio.run(read())
    else:
        assert len(asyncio.run(read())) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header("a", size=1 << 40), "it holds more than"),
        (header("a/" * 70 + "b"), "more than 64 parts"),
        (header("hole", tarfile.GNUTYPE_SPARSE, 512), "holes"),
        (header("", tarfile.XGLTYPE) * 3000, "header that can't be read"),
        (header(".wh.a") + header("", tarfile.XHDTYPE) * 3000, "header that can't be read"),
        (header("", tarfile.XHDTYPE, 512) + NO_NUMBER + header("a"), "header that can't be read"),
        (b"\0" * 100, "truncated"),
        (b"PK\3\4" + b"x" * 2000, "cannot use"),
        (b"\xfd7zXZ\0" + b"x" * 2000, "gzip or zstd"),
        (b"", "empty"),
    ],
)
def test_a_layer_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """Before anything of it is on the disk, with what may stand there."""
    with pytest.raises(UsageError) as refused:
        taken_of(tmp_path, content)

    assert said in f"{refused.value} {refused.value.hint}"
    assert not [each for each in (tmp_path / "work/files").rglob("*") if each.is_file()]


def test_links_and_odd_files_stay_inside(tmp_path: Path) -> None:
    """No directory is made through a link, no file of the host linked, no device made."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    odd = b"".join(
        (
            header("away", tarfile.SYMTYPE, link=str(outside)),
            header("up", tarfile.SYMTYPE, link="../.."),
            header("away/deep/er/file"),
            header("up/deep/file"),
            header("stolen", tarfile.LNKTYPE, link="away/secret"),
            header("stolen2", tarfile.LNKTYPE, link=str(outside / "secret")),
            header("stolen3", tarfile.LNKTYPE, link="../../outside/secret"),
            header("null", tarfile.CHRTYPE),
            header("pipe", tarfile.FIFOTYPE),
            *(header(name) for name in (".wh.", ".wh..", ".wh...", "lib/.wh...", ".wh.a/b")),
            header("kept"),
        )
    )
    files = taken_of(tmp_path, odd + bytes(1024))

    assert files == {"kept": "", ".wh.a/b": ""}
    assert os.listdir(outside) == ["secret"]  # noqa: PTH208 - names are what is wanted
    assert sorted(each.name for each in tmp_path.iterdir()) == ["layout", "outside", "work"]
    assert not (tmp_path / "work/files/null").exists()


def test_the_last_of_several_counts(tmp_path: Path) -> None:
    """Whatever stood there before: a file for a directory, and the other way round."""
    changes = b"".join(
        (
            header("twice"),
            header("twice", size=1) + b"2" + bytes(511),
            header("was-file"),
            header("was-file", tarfile.DIRTYPE),
            header("was-file/a"),
            header("was-directory/a"),
            header("was-directory"),
            header("loop", tarfile.SYMTYPE, link="loop"),
            header("loop"),
        )
    )

    assert taken_of(tmp_path, changes + bytes(1024)) == {
        "twice": "2",
        "was-file/a": "",
        "was-directory": "",
        "loop": "",
    }


def test_what_can_not_be_made_is_told(tmp_path: Path) -> None:
    """A name that no file system takes, or a file below a file, ends it with a sentence."""
    for number, name in enumerate(("x" * 300, "file/below")):
        place = tmp_path / str(number)
        place.mkdir()
        with pytest.raises(UsageError, match="cannot use"):
            taken_of(place, header("file") + header(name) + bytes(1024))


def test_an_index_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    """So is one that is a pipe, which nobody would ever write to."""
    index(tmp_path)
    (tmp_path / "index.json").write_bytes(b"[" * 200_000)
    with pytest.raises(UsageError, match="no whole OCI layout"):
        taken(tmp_path, tmp_path / "work")
    (tmp_path / "index.json").unlink()
    os.mkfifo(tmp_path / "index.json")
    with pytest.raises(UsageError, match="it has no index"):
        taken(tmp_path, tmp_path / "other")


def test_a_blob_of_another_size_is_damaged(tmp_path: Path) -> None:
    """Also where the digest is right."""
    layout = tmp_path / "layout"
    layout.mkdir()
    described = image(layout, [layer(("a", None, ""))])
    with pytest.raises(UsageError, match="is damaged"):
        taken(index(layout, {**described, "size": 1}), tmp_path / "work")
