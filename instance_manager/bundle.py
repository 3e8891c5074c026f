"""What is different where this program is a bundle with its own interpreter, and no installation.

The bundle is a directory: the program, ``block-signals`` beside it, and ``lib`` with the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

PROGRAM: Final = "instance-manager"
BLOCK_SIGNALS: Final = "block-signals"
CONTENTS: Final = "lib"
_WRAPPER: Final = "libnss_wrapper.so"
_LIBRARY_PATH: Final = "LD_LIBRARY_PATH"
_ORIGINAL: Final = "LD_LIBRARY_PATH_ORIG"
_OF_THE_LOADER: Final = "_PYI_"
_SEPARATING: Final = frozenset(" :$\t\n")
"""Where ld.so(8) splits LD_PRELOAD, and what it expands in it."""


def directory() -> Path | None:
    """Return the directory of the bundle; None for an installation."""
    # Set by the bootloader of a frozen program.
    if not getattr(sys, "frozen", False):
        return None
    return Path(sys.executable).parent


def clean_environment(environment: MutableMapping[str, str]) -> None:
    """Take away what the bundle's own start needed, so that no child can inherit it.

    The program executes itself once more, with its own libraries first in LD_LIBRARY_PATH; a
    server or a tool would load those in place of its own.
    """
    original = environment.pop(_ORIGINAL, None)
    environment.pop(_LIBRARY_PATH, None)
    if original is not None:
        environment[_LIBRARY_PATH] = original
    for name in [name for name in environment if name.startswith(_OF_THE_LOADER)]:
        del environment[name]


def command() -> tuple[str, ...]:
    """Return the command line that starts this program again, as isolated as this one is."""
    if directory() is not None:
        return (sys.executable,)
    # With -m, the working directory of whoever calls comes first on the path of modules.
    isolated = ("-I",) if sys.flags.isolated else ()
    return (sys.executable, *isolated, "-m", "instance_manager")


def name_wrapper() -> Path | None:
    """Return the bundle's own libnss_wrapper; None for an installation.

    Also where it is gone, and where LD_PRELOAD can't carry its path.
    """
    here = directory()
    if here is None:
        return None
    library = here / CONTENTS / _WRAPPER
    is_carried = not _SEPARATING.intersection(str(library))
    return library if is_carried and library.is_file() else None


def files() -> tuple[Path, ...]:
    """Return files that stand for all of this program: whoever runs it must get to them."""
    here = directory()
    if here is not None:
        return (here / CONTENTS / "x",)
    return (Path(sys.prefix) / "lib", Path(sys.base_prefix) / "lib", Path(__file__))
