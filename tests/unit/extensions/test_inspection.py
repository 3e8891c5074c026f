from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from instance_manager.commands.extension import render
from instance_manager.commands.text import Style
from instance_manager.extensions.control import updatable_versions
from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.inspection import inspect
from instance_manager.extensions.models import State

Build = Callable[..., bytes]
MakeVolume = Callable[..., Path]

CONTROL = "default_version = '1.1'\nmodule_pathname = '$libdir/sample'\n"
FILES = {
    "share/extension/sample.control": CONTROL,
    "share/extension/sample--1.0.sql": "",
    "share/extension/sample--1.0--1.1.sql": "",
    "share/extension/sample--0.9--1.0.sql": "",
}


@pytest.fixture
def sample(volume: MakeVolume, elf: Build, magic_block: Build) -> MakeVolume:
    """Return a maker of sound volumes; more or other files may be given."""

    def make(name: str, *, machine: int = 62, version: int = 1800, **files: bytes | str) -> Path:
        style = "lea" if machine == 62 else "adr"
        module = elf(
            machine=machine,
            style=style,
            magic=magic_block(version=version),
            texts=[b"sample\0", b"1.1\0"],
            soname="libsample.so.1",
        )
        return volume(name, {**FILES, "lib/sample.so": module, **files})

    return make


def test_a_volume_shows_versions_update_paths_and_what_its_libraries_say(
    sample: MakeVolume, server: ServerFacts
) -> None:
    """More than the report of a running manager needs."""
    place = sample("sample")
    (volume,) = inspect([place], server, hash_contents=True).volumes

    assert (volume.name, volume.path, volume.state) == ("sample", str(place), State.READY)
    assert volume.findings == ()
    assert volume.size_bytes == sum(one.stat().st_size for one in place.rglob("*.*"))
    (extension,), (library,) = volume.extensions, volume.libraries
    assert (extension.versions, extension.updatable_from) == (("1.0", "1.1"), ("0.9", "1.0"))
    assert (library.name, library.version, library.soname) == ("sample", "1.1", "libsample.so.1")
    assert library.size_bytes == 4096
    assert len(volume.content_sha256 or "") == 64


@pytest.mark.parametrize("name", ["My Volume", ".hidden", "x" * 80, "lost+found"])
def test_neither_name_nor_mount_of_a_directory_counts(
    sample: MakeVolume, server: ServerFacts, name: str
) -> None:
    """It may be mounted under another one, read-only."""
    assert inspect([sample(name)], server).all_findings() == ()


def test_several_volumes_are_judged_together(
    sample: MakeVolume, volume: MakeVolume, server: ServerFacts
) -> None:
    """One may need what another one holds."""
    needs = {
        "share/extension/sample--1.0.sql": "CREATE FUNCTION f() RETURNS int AS 'MODULE_PATHNAME'"
    }
    needy = volume("needy", {**FILES, **needs})
    alone, both = inspect([needy], server), inspect([needy, sample("sample")], server)

    assert alone.volumes[0].state is State.QUARANTINED
    assert [one.state for one in both.volumes] == [State.READY, State.READY]


def test_volumes_of_one_name_are_told_apart_by_their_paths(
    sample: MakeVolume, server: ServerFacts
) -> None:
    """Builds of two machines lie in directories of the same name."""
    places = [sample("amd64/sample"), sample("arm64/sample", machine=183)]
    volumes = inspect(places, server).volumes

    assert [one.name for one in volumes] == [str(place) for place in places]
    assert [one.state for one in volumes] == [State.READY, State.QUARANTINED]


def test_an_image_of_another_machine_is_judged_for_its_own(
    sample: MakeVolume, server: ServerFacts
) -> None:
    """What the server at hand is does not count then, nor does its program."""
    place = sample("sample", machine=183)
    facts = server._replace(program="/usr/bin/postgres")
    here = inspect([place], facts, "18.6")
    there = inspect([place], facts, "18.6", machine="aarch64")

    assert here.volumes[0].state is State.QUARANTINED
    assert (here.server.version, here.server.program) == ("18.6", "/usr/bin/postgres")
    assert there.volumes[0].state is State.READY
    assert there.server.model_dump() == {
        "postgres_major": 18,
        "machine": "aarch64",
        "version": None,
        "program": None,
    }


def test_another_major_version_is_judged_for(sample: MakeVolume, server: ServerFacts) -> None:
    """What this server brings itself is not what that one brings."""
    place = sample("sample", version=1900)

    assert inspect([place], server).volumes[0].state is State.QUARANTINED
    assert inspect([place], server, major=19).volumes[0].state is State.READY


def test_of_an_old_server_what_is_wrong_with_the_volume_is_told_too(
    sample: MakeVolume, server: ServerFacts
) -> None:
    """A PostgreSQL 15 that is at hand hides nothing that a newer one would meet."""
    places = [sample("amd64"), sample("arm64", machine=183, version=1700)]
    inspected = inspect(places, server._replace(major=15, program="/usr/bin/postgres"), "15.1")

    codes = [{one.code for one in volume.findings} for volume in inspected.volumes]
    assert codes == [{"EXT007"}, {"EXT007", "EXT031", "EXT033"}]
    assert [volume.state for volume in inspected.volumes] == [State.QUARANTINED] * 2
    assert (inspected.server.postgres_major, inspected.server.version) == (15, "15.1")


def test_links_to_a_library_are_told_from_it(sample: MakeVolume, server: ServerFacts) -> None:
    """They are shown once to people, and by every name to programs."""
    place = sample(
        "sample", **{"system/libx.so.1.2": (sample("other") / "lib/sample.so").read_bytes()}
    )
    (place / "system" / "libx.so.1").symlink_to("libx.so.1.2")
    inspected = inspect([place], server)

    links = {one.path: one.link_to for one in inspected.volumes[0].libraries}
    assert links == {
        "lib/sample.so": None,
        "system/libx.so.1": "system/libx.so.1.2",
        "system/libx.so.1.2": None,
    }
    shown = "\n".join(render(inspected, Style()))
    assert "system/libx.so.1.2" in shown
    assert "system/libx.so.1 " not in shown


def test_without_a_server_volumes_are_judged_for_what_their_modules_are_built_for(
    sample: MakeVolume,
) -> None:
    """What can be proven of an image anywhere is proven."""
    inspected = inspect([sample("sample", machine=183, version=1900)], None)

    assert inspected.volumes[0].state is State.READY
    assert (inspected.server.postgres_major, inspected.server.machine) == (19, "aarch64")


def test_a_library_that_metadata_wants_loaded_is_marked_and_is_no_finding(
    sample: MakeVolume, server: ServerFacts
) -> None:
    """Whether the settings will list the volume is not the image's matter."""
    metadata = json.dumps({"shared_preload_libraries": ["sample"]})
    place = sample("sample", **{"share/instance-manager/extension.json": metadata})
    inspected = inspect([place], server)

    assert inspected.all_findings() == ()
    assert inspected.volumes[0].libraries[0].preload == "server"


def test_damage_is_a_finding_and_never_an_error(volume: MakeVolume, server: ServerFacts) -> None:
    """Whatever lies there is told."""
    place = volume("odd", {"lib/a.so": b"\x7fELF", "share/extension/b.control": "\0", "bin": ""})
    (place / "lib" / "loop.so").symlink_to("loop.so")
    inspected = inspect([place], server)

    assert inspected.volumes[0].state is State.QUARANTINED
    assert [one.size_bytes for one in inspected.volumes[0].libraries] == [4]


def test_a_file_system_is_no_volume_and_costs_bounded_time(server: ServerFacts) -> None:
    """Whoever gives a wrong path gets an answer."""
    (volume,) = inspect([Path("/")], server).volumes

    assert (volume.name, volume.size_bytes, volume.content_sha256) == ("/", None, None)


def test_update_paths_are_followed_backwards_through_circles() -> None:
    """As pg_extension_update_paths() finds them."""
    names = ["a--1--2.sql", "a--2--3.sql", "a--3--2.sql", "a--3--4.sql", "a--9--8.sql", "a--4.sql"]

    assert updatable_versions("a", names, "4") == ("1", "2", "3")
    assert updatable_versions("a", names, "2") == ("1", "3")
    assert updatable_versions("a", names, "1") == ()
