"""Layers compressed by zstd: smaller than those of gzip, for runtimes that take them.

By the program, or by Python's own module (3.14). Neither the name nor the size nor a sum goes into
the frame, and one thread writes it: the same version of zstd gives the same bytes.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from typing import TYPE_CHECKING, Any, Final, cast

from instance_manager.errors import UsageError
from instance_manager.images import oci
from instance_manager.images.tools import run_tool

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from instance_manager.supervision.children import Children

_KIND: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
_LEVEL: Final = 12
"""Higher ones take ten times as long for another tenth."""


def require_zstd() -> None:
    """Make sure that there is something to compress with.

    Raises:
        UsageError: there is neither.
    """
    if shutil.which("zstd") is None and not _has_module():
        raise UsageError(
            "cannot compress by zstd: neither the program zstd nor Python's compression.zstd"
            " (3.14) is here",
            hint="apt-get install zstd, or leave --compression out",
        )


async def zstd_layer(children: Children, tree: Path, work: Path, epoch: int) -> oci.Layer:
    """Write the layer of a tree to a file in *work*."""
    plain, packed = work / "layer.tar", work / "layer.tar.zst"
    contents = oci.write_plain(tree, plain, epoch)
    program = shutil.which("zstd")
    if program is None:
        _by_module(plain, packed)
    else:
        # Several threads cut the input into jobs, and so give other bytes.
        options = (f"-{_LEVEL}", "--single-thread", "--no-check", "--no-content-size", "--quiet")
        await run_tool(children, "zstd", (program, *options, "-o", packed, "--", plain))
    # As large as the volume, on a file system that may be nearly full.
    _remove(plain)
    return oci.Layer(packed, _KIND, contents)


def _has_module() -> bool:
    try:
        return importlib.util.find_spec("compression.zstd") is not None
    except ModuleNotFoundError:
        return False


def _by_module(plain: Path, packed: Path) -> None:
    module: Any = importlib.import_module("compression.zstd")
    with plain.open("rb") as source, module.open(packed, "wb", level=_LEVEL) as target:
        shutil.copyfileobj(source, cast("IO[bytes]", target))


def _remove(file: Path) -> None:
    file.unlink()
