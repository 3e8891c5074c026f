from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from instance_manager.extensions.discovery import discover
from instance_manager.extensions.facts import PathLists, RootFacts, VolumeFacts
from instance_manager.extensions.metadata import Metadata
from instance_manager.settings.models import VolumeSettings

MakeVolume = Callable[..., Path]
CONTROL = "default_version = '1.0'\nmodule_pathname = '$libdir/sample'\n"


def _sample(module: bytes) -> dict[str, bytes | str]:
    return {
        "share/extension/sample.control": CONTROL,
        "share/extension/sample--1.0.sql": "select 1;",
        "lib/sample.so": module,
    }


def _discover(root: Path, *volumes: dict[str, object]) -> RootFacts:
    return discover(root, [VolumeSettings.model_validate(each) for each in volumes])


def _only(root: Path, *volumes: dict[str, object]) -> VolumeFacts:
    (volume,) = _discover(root, *volumes).volumes
    return volume


def _obstacles(volume: VolumeFacts) -> list[str]:
    return [f"{each.code} {each.message}" for each in volume.obstacles]


def test_a_volume_is_found_with_all_that_it_holds(volume: MakeVolume, module: bytes) -> None:
    """Control files, versions, libraries and paths are facts; nothing stood in the way."""
    place = volume("sample", {**_sample(module), "bin/tool": "", "licenses/x": ""})

    found = _only(place.parent)

    assert (found.name, found.path) == ("sample", str(place))
    assert found.paths == PathLists(("share",), ("lib",), ("lib",), ("bin",))
    (control,) = found.controls
    assert (control.extension, control.path) == ("sample", "share/extension/sample.control")
    assert (control.versions, control.directory) == (("1.0",), "share")
    (library,) = found.libraries
    assert (library.path, library.machine, library.is_module) == ("lib/sample.so", "x86_64", True)
    assert library.needed == ("libc.so.6",)
    assert found.obstacles == ()
    assert not found.is_mount


def test_a_missing_root_holds_no_volumes(tmp_path: Path) -> None:
    """No volumes are mounted: that is no error."""
    assert _discover(tmp_path / "none") == RootFacts(str(tmp_path / "none"), ())


def test_a_root_that_is_no_directory_is_a_finding_of_the_set(tmp_path: Path) -> None:
    """It is named, with the reason."""
    root = tmp_path / "file"
    root.write_text("")

    (obstacle,) = _discover(root).obstacles

    assert obstacle.code == "EXT006"
    assert obstacle.message == (f"cannot read the extensions root {str(root)!r}: Not a directory")


def test_hidden_names_and_plain_files_are_no_volumes(volume: MakeVolume) -> None:
    """Kubernetes' own links, a file system's lost+found, files and FIFOs are passed over."""
    root = volume("a", {}).parent
    volume("..data", {})
    volume("lost+found", {})
    (root / "README").write_text("")
    os.mkfifo(root / "fifo")

    assert [each.name for each in _discover(root).volumes] == ["a"]


def test_listed_volumes_come_first_in_their_order(volume: MakeVolume) -> None:
    """The others follow by name."""
    places = [volume(name, {}) for name in ("a", "b", "c", "d")]
    root = places[0].parent

    found = _discover(root, {"name": "d"}, {"name": "none"}, {"name": "b"})

    assert [each.name for each in found.volumes] == ["d", "b", "a", "c"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a:b", 'volume name "a:b" contains a character that cannot be used in a search path'),
        ("Upper", 'volume name "Upper" is not allowed'),
        (
            "\udcff",
            'volume name "\\xff" contains a character that cannot be used in a search path',
        ),
    ],
)
def test_a_name_that_can_not_be_a_volumes_is_a_finding(
    volume: MakeVolume, module: bytes, name: str, message: str
) -> None:
    """It is not looked into; the others are."""
    root = volume(name, _sample(module)).parent
    volume("fine", {})

    bad, _ = sorted(_discover(root).volumes, key=lambda each: each.is_open)

    assert _obstacles(bad) == [f"EXT005 {message}"]
    assert (bad.controls, bad.libraries) == ((), ())


def test_a_link_to_a_directory_is_a_volume(
    volume: MakeVolume, module: bytes, tmp_path: Path
) -> None:
    """What it links to is inside, wherever it lies."""
    place = volume("a", {})
    shutil.copytree(volume("real", _sample(module)), tmp_path / "elsewhere")
    shutil.rmtree(place.parent)
    place.parent.mkdir()
    place.symlink_to("../elsewhere")

    found = _only(place.parent)

    assert (found.name, found.path) == ("a", str(place))
    assert [each.extension for each in found.controls] == ["sample"]
    assert found.obstacles == ()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "EXT010 a is a dangling symbolic link to nowhere"),
        ("a", "EXT010 a is a symbolic link that leads back to itself"),
    ],
)
def test_a_link_to_nowhere_was_meant_to_be_a_volume(
    tmp_path: Path, target: str, message: str
) -> None:
    """It is a volume that can't be used, not nothing."""
    (tmp_path / "a").symlink_to(target)

    found = _only(tmp_path)

    assert _obstacles(found) == [message]
    assert not found.is_open


def test_a_dangling_control_file_is_a_finding(volume: MakeVolume) -> None:
    """Debian's packages ship such links to /etc/alternatives."""
    place = volume("a", {"share/extension/x--1.sql": ""})
    (place / "share/extension/postgis.control").symlink_to("/etc/alternatives/none")
    (place / "share/extension/loop.sql").symlink_to("loop.sql")
    (place / "share/extension/README.txt").symlink_to("nowhere")

    assert sorted(_obstacles(_only(place.parent))) == [
        "EXT010 share/extension/loop.sql is a symbolic link that leads back to itself",
        (
            "EXT010 share/extension/postgis.control is a dangling symbolic link to"
            " /etc/alternatives/none; it would break pg_available_extensions for the whole server"
        ),
    ]


def test_links_inside_the_volume_are_followed(volume: MakeVolume, module: bytes) -> None:
    """Directories and files may be links, and one library with two names is two libraries."""
    place = volume("a", {"usr/share/extension/sample.control": CONTROL, "usr/lib/real.so": module})
    (place / "share").symlink_to("usr/share")
    (place / "lib").symlink_to(place / "usr/lib")
    (place / "usr/lib/sample.so").symlink_to("real.so")

    found = _only(place.parent)

    assert [each.path for each in found.libraries] == ["lib/real.so", "lib/sample.so"]
    assert [each.extension for each in found.controls] == ["sample"]
    assert found.obstacles == ()


def test_a_link_out_of_the_volume_is_a_finding(volume: MakeVolume, module: bytes) -> None:
    """It is followed, as the server follows it."""
    other = volume("other", _sample(module))
    place = volume("a", {"share/extension/": ""})
    (place / "share/extension/sample.control").symlink_to(other / "share/extension/sample.control")
    (place / "lib").symlink_to(other / "lib")

    found = _discover(place.parent).volumes[0]

    assert _obstacles(found) == [
        f"EXT011 lib points outside the volume ({other}/lib)",
        (
            "EXT011 share/extension/sample.control points outside the volume"
            f" ({other}/share/extension/sample.control)"
        ),
    ]
    assert [each.extension for each in found.controls] == ["sample"]


@pytest.mark.parametrize(
    "name", ["share/extension/x.control", "lib/x.so", "share/extension/x--1.sql"]
)
def test_a_fifo_never_blocks(volume: MakeVolume, name: str) -> None:
    """The server would hang in opening it; here it is a finding."""
    place = volume("a", {"share/extension/": "", "lib/": ""})
    os.mkfifo(place / name)

    assert _obstacles(_only(place.parent)) == [
        f"EXT006 {name} is not readable: it is not a regular file"
    ]


def test_a_directory_named_like_a_control_file_is_a_finding(volume: MakeVolume) -> None:
    """The server would take it for one; it passes over directories among libraries."""
    place = volume("a", {"share/extension/x.control/": "", "lib/x.so/": "", "lib/bitcode/": ""})

    assert _obstacles(_only(place.parent)) == [
        "EXT006 share/extension/x.control is not readable: it is not a regular file"
    ]


def test_metadata_that_is_a_fifo_is_a_finding(volume: MakeVolume) -> None:
    """It is looked at before it is opened."""
    place = volume("a", {"share/instance-manager/": ""})
    os.mkfifo(place / "share/instance-manager/extension.json")

    (obstacle,) = _only(place.parent).obstacles

    assert obstacle.code == "EXT006"


def test_every_problem_of_the_metadata_is_a_finding(volume: MakeVolume) -> None:
    """Hostile input gives findings and defaults."""
    content = '{"env": 1, "bin_path": "x", "ld_library_path": ["system"]}'
    place = volume("a", {"share/instance-manager/extension.json": content, "system/": ""})

    found = _only(place.parent)

    assert [each.code for each in found.obstacles] == ["EXT024", "EXT024"]
    assert found.metadata == Metadata(ld_library_path=("system",))
    assert found.loader_paths_given


@pytest.mark.parametrize(
    "name", ["share/instance-manager/extension.json", "share/extension/x.control"]
)
def test_a_file_that_is_too_large_is_a_finding(volume: MakeVolume, name: str) -> None:
    """Only so much of it is read."""
    place = volume("a", {name: b"#" * 300_000})

    (obstacle,) = _only(place.parent).obstacles

    assert obstacle.code == "EXT025"
    assert obstacle.subject == name


def test_settings_win_over_metadata_and_both_over_defaults(
    volume: MakeVolume, module: bytes
) -> None:
    """A list that is given replaces the default, even an empty one."""
    content = '{"dynamic_library_path": ["modules"], "bin_path": ["sbin"]}'
    place = volume(
        "a",
        {
            **_sample(module),
            "share/instance-manager/extension.json": content,
            "modules/x.so": module,
            "sbin/": "",
            "opt/bin/": "",
        },
    )

    found = _only(
        place.parent, {"name": "a", "bin_path": ["opt/./bin", "opt/bin"], "ld_library_path": []}
    )

    assert found.paths == PathLists(("share",), ("modules",), (), ("opt/bin",))
    assert found.loader_paths_given
    assert [each.path for each in found.libraries] == ["modules/x.so"]


def test_a_path_that_leaves_the_volume_is_a_finding_and_not_used(volume: MakeVolume) -> None:
    """Absolute paths and parents are errors, a path that is not there is a warning."""
    place = volume("a", {"lib/": ""})
    paths = ["/etc", "../b", "lib:x", "", "none", "lib"]

    found = _only(place.parent, {"name": "a", "dynamic_library_path": paths})

    assert [each.code for each in found.obstacles] == [*["EXT026"] * 4, "EXT027"]
    assert found.obstacles[0].message == (
        "dynamic_library_path has '/etc', which is no path inside the volume"
    )
    assert found.paths.dynamic_library_path == ("lib",)


def test_the_first_of_equal_control_files_is_the_extension(volume: MakeVolume) -> None:
    """The server finds no other one."""
    place = volume(
        "a",
        {
            "one/extension/x.control": "default_version = '1'",
            "two/extension/x.control": "default_version = '2'",
            "two/extension/x--2.sql": "",
        },
    )

    (control,) = _only(
        place.parent, {"name": "a", "extension_control_path": ["one", "two"]}
    ).controls

    assert control.control.default_version == "1"
    assert control.versions == ()


@pytest.mark.parametrize(
    ("directory", "shown"),
    [("scripts", "share/scripts"), ("../scripts", "share/../scripts"), ("/nowhere", "/nowhere")],
)
def test_scripts_are_looked_for_where_the_control_file_says(
    volume: MakeVolume, directory: str, shown: str
) -> None:
    """A relative directory begins above ``extension``."""
    place = volume(
        "a",
        {
            "share/extension/x.control": f"directory = '{directory}'",
            "share/scripts/x--1.sql": "",
            "scripts/x--2.sql": "",
        },
    )

    found = _only(place.parent)

    (control,) = found.controls
    assert control.script_directory == shown
    assert control.versions == {"share/scripts": ("1",), "share/../scripts": ("2",)}.get(shown)
    assert found.obstacles == ()


def test_secondary_control_files_lie_beside_the_scripts(volume: MakeVolume) -> None:
    """They are no extensions of their own."""
    place = volume(
        "a",
        {
            "share/extension/x.control": "default_version = '1'",
            "share/extension/x--1.control": "magic = 1",
            "share/extension/x--1.sql": "",
        },
    )

    (control,) = _only(place.parent).controls

    ((path, secondary),) = control.secondary
    assert path == "share/extension/x--1.control"
    assert len(secondary.problems) == 1


def test_libraries_with_versions_in_their_names_are_libraries(
    volume: MakeVolume, elf: Callable[..., bytes]
) -> None:
    """Modules are looked for only where the server searches."""
    library = elf(soname="libx.so.1")
    place = volume("a", {"lib/libx.so.1": library, "system/liby.so": library, "lib/notes.md": ""})

    found = _only(place.parent)

    assert [each.path for each in found.libraries] == ["lib/libx.so.1", "system/liby.so"]
    assert [each.magic is None for each in found.libraries] == [False, True]


def test_names_without_a_suffix_are_kept_for_what_they_hide(
    volume: MakeVolume, module: bytes
) -> None:
    """Regular files only."""
    place = volume("a", {"lib/sample.so": module, "lib/sample": "", "lib/bitcode/": ""})

    assert _only(place.parent).suffixless == {"sample"}


def test_a_damaged_library_keeps_what_its_header_says(
    volume: MakeVolume, elf: Callable[..., bytes]
) -> None:
    """Its problem is a fact, and so is its machine."""
    place = volume("a", {"lib/x.so": elf(machine=183)[:2000], "lib/y.so": b""})

    x, y = _only(place.parent).libraries

    assert (x.machine, x.bits, x.problem) == (
        "aarch64",
        64,
        "it is truncated: 4096 bytes, not 2000",
    )
    assert (y.machine, y.problem) == (None, "it is empty")


def test_findings_of_one_kind_are_counted_after_twenty(volume: MakeVolume) -> None:
    """A thousand dangling links make one sentence, and keep their severity."""
    place = volume("a", {"share/extension/": ""})
    for number in range(50):
        (place / f"share/extension/x--{number}.sql").symlink_to("nowhere")

    obstacles = _only(place.parent).obstacles

    assert len(obstacles) == 21
    assert (obstacles[-1].code, obstacles[-1].message) == (
        "EXT010",
        "30 more findings of this kind",
    )


def test_more_control_files_than_are_read_is_a_finding(volume: MakeVolume) -> None:
    """Those that were read are facts all the same."""
    files: dict[str, bytes | str] = {f"share/extension/x{n}.control": "" for n in range(501)}

    found = _only(volume("a", files).parent)

    assert len(found.controls) == 500
    assert _obstacles(found) == ["EXT025 share/extension holds more than 500 control files"]


def test_a_directory_that_is_a_link_to_nowhere_is_a_finding(volume: MakeVolume) -> None:
    """The volume looks empty, and this is why."""
    place = volume("a", {})
    (place / "lib").symlink_to("usr/lib")

    assert _obstacles(_only(place.parent)) == ["EXT010 lib is a dangling symbolic link to usr/lib"]


def test_a_root_with_too_many_volumes_is_a_finding(tmp_path: Path) -> None:
    """A limit is said, never kept silent."""
    for number in range(258):
        (tmp_path / f"v{number:03}").mkdir()

    found = _discover(tmp_path)

    assert len(found.volumes) == 256
    assert [each.code for each in found.obstacles] == ["EXT025"]
