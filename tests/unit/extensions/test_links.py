from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from instance_manager.extensions.control import parse
from instance_manager.extensions.facts import (
    NO_TRACES,
    ControlFacts,
    LibraryFacts,
    PathLists,
    RootFacts,
    ServerFacts,
    VolumeFacts,
)
from instance_manager.extensions.links import Loading, judge_links
from instance_manager.extensions.loader_trace import Trace, UndefinedSymbol
from instance_manager.extensions.magic import Magic
from instance_manager.extensions.metadata import Metadata
from instance_manager.extensions.models import Finding
from instance_manager.extensions.objects import LinkerMaker, ObjectFiles, ObjectStore, prepare
from instance_manager.extensions.preflight import LoaderView, Verdict, judge
from instance_manager.settings.models import Settings
from tests.support.made_objects import interpreter, make_object

SERVER = "/usr/bin/postgres"
LIBRARIES = "/usr/lib/postgresql/lib"
Files = Mapping[str, Mapping[str, Any] | bytes]


class World:
    """A root with a server, and volumes in it."""

    def __init__(self, root: Path, machine: str) -> None:
        self.root, self.machine = root, machine
        self.volumes: list[VolumeFacts] = []
        # What the loader was built to search lies in its file as text.
        content = make_object(machine=machine, soname="ld.so")
        self.write(interpreter(machine), content + b"/lib/\0/usr/lib/\0")
        self.add("/usr/lib/libc.so.6", soname="libc.so.6", exports=["puts"], versions=["C_1"])
        self.add("/usr/lib/libz.so.1", soname="libz.so.1", exports=["inflate"], versions=["Z_1"])
        self.add(
            SERVER,
            interpreter=interpreter(machine),
            needed=["libz.so.1", "libc.so.6"],
            needs={"libz.so.1": ["Z_1"]},
            wants=["inflate"],
            exports=["palloc"],
        )

    def write(self, path: str, content: bytes) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def add(self, path: str, **made: Any) -> None:
        self.write(path, make_object(machine=self.machine, **made))

    def volume(self, name: str, files: Files, *controls: str, **changes: Any) -> VolumeFacts:
        """Add a volume with these libraries, and extensions with these ``module_pathname``s."""
        path = f"/extensions/{name}"
        libraries: list[LibraryFacts] = []
        for place, made in files.items():
            content = (
                made if isinstance(made, bytes) else make_object(machine=self.machine, **made)
            )
            self.write(f"{path}/{place}", content)
            directory, _, file = place.rpartition("/")
            magic = Magic(is_module=True, block=None) if directory == "lib" else None
            if directory in {"lib", "system"}:
                libraries.append(
                    LibraryFacts(directory, file, bits=64, machine=self.machine, magic=magic)
                )
        facts = VolumeFacts(
            name,
            path,
            paths=PathLists(("share",), ("lib",), ("system", "lib")),
            loader_paths_given=True,
            controls=tuple(map(_control, controls)),
            libraries=tuple(libraries),
        )._replace(**changes)
        self.volumes.append(facts)
        return facts

    def linkers(self) -> LinkerMaker:
        made = prepare(SERVER, ObjectFiles(str(self.root), ObjectStore()))
        assert made is not None
        return made

    def findings(
        self, *preloaded: str, library_path: str | None = None
    ) -> dict[str, list[Finding]]:
        path = ":".join(f"{volume.path}/system" for volume in self.volumes)
        path = path if library_path is None else library_path
        loading = Loading(self.volumes, preloaded, SERVER, LIBRARIES, "", path)
        return judge_links(loading, self.linkers()).findings

    def told(self, *preloaded: str, library_path: str | None = None) -> list[tuple[str, str, str]]:
        return [
            (name, each.code, each.message)
            for name, found in self.findings(*preloaded, library_path=library_path).items()
            for each in found
        ]


def _control(module: str) -> ControlFacts:
    line = f"module_pathname = '{module}'\n" if module else ""
    control = parse(f"default_version = '1'\n{line}".encode())
    return ControlFacts("share", "e", "share/extension/e.control", control, "", ("1",))


@pytest.fixture(params=["x86_64", "aarch64"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """Return a root with a server of each machine, whatever this host is, and no volumes yet."""
    return World(tmp_path, request.param)


MISSING = {"needed": ["libgeos.so.1"]}


def test_what_is_complete_is_told_nothing_of(world: World) -> None:
    """Libraries of the volume, of the server, and symbols of both."""
    module = {"needed": ["libgeos.so.1", "libc.so.6"], "wants": ["geos", "puts", "palloc"]}
    world.volume(
        "v",
        {
            "lib/m.so": module,
            "system/libgeos.so.1": {"soname": "libgeos.so.1", "exports": ["geos"]},
        },
        "$libdir/m",
    )

    assert world.told() == []


def test_a_missing_library_is_named_with_who_needs_it_and_where_was_searched(
    world: World,
) -> None:
    """The server would name the first one only, and no directory."""
    files: Files = {
        "lib/m.so": {"needed": ["libgeos.so.1"]},
        "system/libgeos.so.1": {"needed": ["libcore.so"]},
    }
    world.volume("v", files, "$libdir/m")

    assert world.told() == [
        (
            "v",
            "EXT040",
            (
                "lib/m.so needs libcore.so (required by system/libgeos.so.1), not found in"
                " /extensions/v/system, /lib, /usr/lib"
            ),
        )
    ]


@pytest.mark.parametrize(
    ("controls", "preloaded", "metadata", "code"),
    [
        (["$libdir/m"], [], [], "EXT040"),
        (["m"], [], [], "EXT040"),
        ([], [], [], "EXT047"),
        (["$libdir/other"], ["m"], [], "EXT040"),
        (["$libdir/other"], ["/extensions/v/lib/m"], [], "EXT040"),
        (["$libdir/other"], [], ["m"], "EXT040"),
        (["$libdir/other"], [], [], "EXT047"),
    ],
)
def test_only_of_a_module_that_is_asked_for_it_is_an_error(
    world: World,
    controls: list[str],
    preloaded: list[str],
    metadata: list[str],
    code: str,
) -> None:
    """A control file or a preload list names it."""
    described = Metadata(shared_preload_libraries=tuple(metadata))
    world.volume("v", {"lib/m.so": MISSING}, *controls, metadata=described)

    assert [code for _, code, _ in world.told(*preloaded)] == [code]


def test_a_library_that_no_module_loads_is_no_error(world: World) -> None:
    """It may be there for somebody who loads it by name, or for nobody."""
    world.volume("v", {"lib/m.so": {}, "system/plugin.so": MISSING}, "$libdir/m")

    assert world.told() == [
        (
            "v",
            "EXT047",
            (
                "system/plugin.so needs libgeos.so.1, not found in /extensions/v/system, /lib,"
                " /usr/lib; nothing that is known to be used loads system/plugin.so"
            ),
        )
    ]


def test_of_libraries_that_no_module_loads_what_lies_beside_them_is_not_missing(
    world: World,
) -> None:
    """Without the one that a module needs, nothing needs the directory in LD_LIBRARY_PATH."""
    files: Files = {
        "lib/m.so": MISSING,
        "system/libdec.so.1": {"needed": ["libcommon.so.1"], "wants": ["common"]},
        "system/libcommon.so.1": {"soname": "libcommon.so.1", "exports": ["common"]},
        "system/libother.so.1": {"needed": ["libgone.so.1"]},
    }
    world.volume("v", files, "$libdir/m")

    told = world.told(library_path="")

    assert [(code, message.partition(", ")[0]) for _, code, message in told] == [
        ("EXT040", "lib/m.so needs libgeos.so.1"),
        ("EXT047", "system/libother.so.1 needs libgone.so.1"),
    ]


def test_a_module_needs_the_directory_of_its_libraries(world: World) -> None:
    """What lies where the loader does not look is missing for a module."""
    world.volume("v", {"lib/m.so": MISSING, "system/libgeos.so.1": {}}, "$libdir/m")

    assert [code for _, code, _ in world.told(library_path="")] == ["EXT040"]


def test_a_missing_library_is_told_beside_a_version_that_another_lacks(world: World) -> None:
    """Both are to be mended."""
    module = {"needed": ["libc.so.6", "libgeos.so.1"], "needs": {"libc.so.6": ["C_2"]}}
    world.volume("v", {"lib/m.so": module}, "$libdir/m")

    assert [code for _, code, _ in world.told()] == ["EXT040", "EXT041"]


@pytest.mark.parametrize("trace", [Trace(stop="why"), Trace(refusal="why")])
def test_where_the_loader_gives_up_its_emulation_tells_the_rest(
    world: World, settings: Callable[..., Settings], trace: Trace
) -> None:
    """It has not looked at what else is missing."""
    module = {"needed": ["libc.so.6", "libgeos.so.1"], "needs": {"libc.so.6": ["C_2"]}}
    world.volume("v", {"lib/m.so": module}, "$libdir/m")

    verdict = _verdict(world, settings, {"/extensions/v/lib/m.so": trace})

    assert {"EXT040", "EXT041"} <= {each.code for each in verdict.volumes[0].findings}


def test_a_version_that_a_library_lacks_is_named_with_both(world: World) -> None:
    """Such is an image that was built for a newer distribution."""
    module = {"needed": ["libc.so.6"], "needs": {"libc.so.6": ["C_2", "C_1"]}}
    world.volume("v", {"lib/m.so": module}, "$libdir/m")

    assert world.told() == [
        (
            "v",
            "EXT041",
            (
                "lib/m.so needs libc.so.6(C_2), but /usr/lib/libc.so.6 does not provide it"
                " (image built for a newer distribution?)"
            ),
        )
    ]


def test_undefined_symbols_are_named_by_object(world: World) -> None:
    """The server would name the first one, when the extension is created."""
    names = [f"gone_{number}" for number in range(7)]
    world.volume("v", {"lib/m.so": {"wants": names}}, "$libdir/m")

    assert world.told() == [
        (
            "v",
            "EXT042",
            (
                "lib/m.so: undefined symbols gone_0, gone_1, gone_2, gone_3, gone_4 and 2 more;"
                " built for another PostgreSQL minor or fork?"
            ),
        )
    ]


def test_symbols_are_not_blamed_where_a_library_is_missing(world: World) -> None:
    """They would be in there."""
    world.volume("v", {"lib/m.so": {**MISSING, "wants": ["geos"]}}, "$libdir/m")

    assert [code for _, code, _ in world.told()] == ["EXT040"]


def test_a_symbol_of_another_module_is_no_error(world: World) -> None:
    """The server loads modules so that those after them see their names."""
    world.volume("v", {"lib/m.so": {"wants": ["lent"]}}, "$libdir/m")
    world.volume("w", {"lib/n.so": {"exports": ["lent"]}}, "$libdir/n")

    assert world.told() == [
        (
            "v",
            "EXT047",
            "lib/m.so: only another module defines the symbol lent; that one must be loaded first",
        )
    ]


def test_a_library_in_place_of_the_servers_own_is_named_with_it(world: World) -> None:
    """The server would use an older OpenSSL without a word."""
    shadow = {"soname": "libz.so.1", "exports": ["inflate"], "versions": ["Z_1"]}
    world.volume("v", {"system/libz.so.1": shadow})

    assert world.told() == [
        (
            "v",
            "EXT043",
            (
                'volume "v" ships libz.so.1, which would replace the server\'s own copy'
                " (/usr/lib/libz.so.1)"
            ),
        )
    ]


def test_the_library_of_the_wal_receiver_is_the_servers_own(world: World) -> None:
    """A standby loads it when it begins to stream."""
    world.add("/usr/lib/libpq.so.5", soname="libpq.so.5")
    world.add(f"{LIBRARIES}/libpqwalreceiver.so", needed=["libpq.so.5"])
    world.volume("v", {"system/libpq.so.5": {"soname": "libpq.so.5"}})

    assert [code for _, code, _ in world.told()] == ["EXT043"]


@pytest.mark.parametrize(
    ("shadow", "why"),
    [
        (
            {"exports": ["inflate"], "versions": ["Z_0"]},
            (
                "/usr/bin/postgres needs libz.so.1(Z_1), but /extensions/v/system/libz.so.1"
                " does not provide it"
            ),
        ),
        ({"versions": ["Z_1"]}, "/usr/bin/postgres: undefined symbol inflate"),
        (
            {"exports": ["inflate"], "needed": ["gone.so"]},
            "gone.so, which /extensions/v/system/libz.so.1 needs, is not found",
        ),
    ],
)
def test_a_library_with_which_the_server_could_not_start_is_an_error(
    world: World, shadow: Mapping[str, Any], why: str
) -> None:
    """Nothing else is said meanwhile: each module would be judged by it."""
    world.volume("v", {"system/libz.so.1": {"soname": "libz.so.1", **shadow}})
    world.volume("w", {"lib/m.so": MISSING})

    told = world.told()

    assert [(name, code) for name, code, _ in told] == [("v", "EXT043"), ("v", "EXT048")]
    assert told[1][2] == f"the server could not start with system/libz.so.1 of the volume: {why}"


@pytest.mark.parametrize(
    ("one", "other", "codes"),
    [
        ({"build_id": b"1" * 20}, {"build_id": b"2" * 20}, ["EXT044"]),
        ({"build_id": b"1" * 20}, {"build_id": b"1" * 20, "exports": ["x"]}, []),
        ({}, {}, []),
        ({}, {"exports": ["x"]}, ["EXT044"]),
    ],
)
def test_libraries_of_one_name_that_differ_are_told(
    world: World, one: Mapping[str, Any], other: Mapping[str, Any], codes: list[str]
) -> None:
    """By their build ids; by their bytes where one has none."""
    world.volume("v", {"system/libgeos.so.1": {"soname": "libgeos.so.1", **one}})
    world.volume("w", {"system/libgeos.so.1": {"soname": "libgeos.so.1", **other}})

    assert [(name, code) for name, code, _ in world.told()] == [("w", code) for code in codes]


@pytest.mark.parametrize(
    ("content", "why"), [(b"INPUT(x)", "file too short"), (b"x" * 99, "invalid ELF header")]
)
def test_a_file_at_which_the_loader_would_stop_is_told_in_its_words(
    world: World, content: bytes, why: str
) -> None:
    """It searches no further, though the library lies in the next directory."""
    files: Files = {"lib/m.so": {"needed": ["libgeos.so.1"], "rpath": "$ORIGIN/../more"}}
    world.volume("v", {**files, "more/libgeos.so.1": content, "system/libgeos.so.1": {}}, "m")

    assert world.told() == [
        (
            "v",
            "EXT045",
            (
                f'lib/../more/libgeos.so.1 is not loadable; ld.so would abort ("{why}") when'
                " lib/m.so is loaded"
            ),
        )
    ]


def test_of_one_kind_only_so_much_is_told(world: World) -> None:
    """A volume of thousands of such modules fills no log."""
    world.volume("v", {f"lib/m{number}.so": MISSING for number in range(30)})

    assert len(world.told()) == 20


def test_a_volume_that_goes_takes_what_it_held_with_it(
    world: World, settings: Callable[..., Settings]
) -> None:
    """Judged again without it, the next one lacks a library, and a third one then too."""
    world.volume("a", {"system/liba.so": {}, "lib/a.so": MISSING}, "$libdir/a")
    world.volume("b", {"system/libb.so": {}, "lib/b.so": {"needed": ["liba.so"]}}, "$libdir/b")
    world.volume("c", {"lib/c.so": {"needed": ["libb.so"]}}, "$libdir/c")
    world.volume("d", {"lib/d.so": {}}, "$libdir/d")
    volumes = tuple(world.volumes)
    loader = LoaderView(world.linkers(), "")

    verdict = judge(
        RootFacts("/extensions", volumes),
        ServerFacts(18, world.machine),
        settings(),
        loader=loader,
    )

    states = {volume.name: volume.state.value for volume in verdict.volumes}
    assert states == dict.fromkeys("abc", "quarantined") | {"d": "ready"}
    assert [_links(volume.findings) for volume in verdict.volumes] == [*[["EXT040"]] * 3, []]


def _verdict(
    world: World, settings: Callable[..., Settings], traces: Mapping[str, Trace] = NO_TRACES
) -> Verdict:
    root = RootFacts("/extensions", tuple(world.volumes))
    server = ServerFacts(18, world.machine, program=SERVER)
    return judge(root, server, settings(), traces=traces, loader=LoaderView(world.linkers(), ""))


def test_the_loaders_word_counts_more_than_its_emulations(
    world: World, settings: Callable[..., Settings]
) -> None:
    """Whom only the emulation accuses can be asked about, and is used when cleared."""
    world.volume("v", {"lib/m.so": MISSING}, "$libdir/m")

    accusing = _verdict(world, settings)
    cleared = _verdict(world, settings, {"/extensions/v/lib/m.so": Trace()})

    assert [volume.name for volume in accusing.accused] == ["v"]
    assert accusing.accepted == ()
    assert [volume.name for volume in cleared.accepted] == ["v"]
    assert cleared.accused == ()
    (found,) = [each for each in cleared.volumes[0].findings if each.code == "EXT081"]
    assert "missing libraries by the resolver alone: libgeos.so.1" in found.message


def test_what_the_loader_alone_complains_of_is_an_error_and_a_disagreement(
    world: World, settings: Callable[..., Settings]
) -> None:
    """The emulation may be blind to something, and then says so."""
    world.volume("v", {"lib/m.so": {}}, "$libdir/m")

    verdict = _verdict(world, settings, {"/extensions/v/lib/m.so": Trace(missing=("libx.so",))})

    codes = [each.code for each in verdict.volumes[0].findings]
    assert (verdict.accepted, verdict.accused) == ((), ())
    assert "EXT040" in codes


def test_where_both_agree_it_is_said_once_with_the_places_searched(
    world: World, settings: Callable[..., Settings]
) -> None:
    """The loader decides, the emulation explains; without a word that they differ."""
    world.volume("v", {"lib/m.so": MISSING}, "$libdir/m")

    trace = Trace(missing=("libgeos.so.1",))
    verdict = _verdict(world, settings, {"/extensions/v/lib/m.so": trace})

    (found,) = [each for each in verdict.volumes[0].findings if each.code in {"EXT040", "EXT081"}]
    assert "not found in /extensions/v/system, /extensions/v/lib, /lib, /usr/lib" in found.message
    assert verdict.accused == ()


def test_a_server_that_the_loader_clears_is_not_broken_by_a_volume(
    world: World, settings: Callable[..., Settings]
) -> None:
    """The emulation accuses a library that takes the place of the server's own."""
    files: Files = {
        "system/libz.so.1": {"soname": "libz.so.1", "versions": ["Z_0"]},
        "lib/m.so": {},
    }
    world.volume("v", files, "$libdir/m")

    accusing = _verdict(world, settings)
    cleared = _verdict(world, settings, {SERVER: Trace()})

    assert [volume.name for volume in accusing.accused] == ["v"]
    assert [volume.name for volume in cleared.accepted] == ["v"]


def test_a_symbol_that_the_loader_misses_and_another_module_has_is_no_error(
    world: World, settings: Callable[..., Settings]
) -> None:
    """The server loads modules with RTLD_GLOBAL: one may need another before it."""
    world.volume("v", {"lib/m.so": {"wants": ["lent"]}, "lib/n.so": {"exports": ["lent"]}}, "m")

    trace = Trace(undefined=(UndefinedSymbol("lent", "/extensions/v/lib/m.so"),))
    verdict = _verdict(world, settings, {"/extensions/v/lib/m.so": trace})

    assert [volume.name for volume in verdict.accepted] == ["v"]
    assert [each.code for each in verdict.volumes[0].findings if "lent" in each.message] == [
        "EXT047"
    ]


OLD: Files = {"system/libfoo.so": {"exports": ["foo"]}}
NEW: Files = {
    "system/libfoo.so": {"exports": ["foo", "bar"]},
    "lib/b.so": {"needed": ["libfoo.so"], "wants": ["bar"]},
}
OLD_TAKEN = Trace(
    (("libfoo.so", "/extensions/a/system/libfoo.so"),),
    undefined=(UndefinedSymbol("bar", "/extensions/b/lib/b.so"),),
)


@pytest.mark.parametrize(
    "traces",
    [
        {},
        {"/extensions/b/lib/b.so": OLD_TAKEN},
        {"/extensions/a/lib/a.so": Trace(missing=("libgeos.so.1",))},
        {
            "/extensions/a/lib/a.so": Trace(missing=("libgeos.so.1",)),
            "/extensions/b/lib/b.so": OLD_TAKEN,
        },
    ],
)
def test_a_volume_that_is_left_out_spoils_no_other_one(
    world: World, settings: Callable[..., Settings], traces: Mapping[str, Trace]
) -> None:
    """Its library was in the way of a newer one; the loader was asked while it still was."""
    world.volume("a", {**OLD, "lib/a.so": MISSING}, "$libdir/a")
    world.volume("b", NEW, "$libdir/b")

    verdict = _verdict(world, settings, traces)

    assert [volume.name for volume in verdict.accepted] == ["b"]
    assert _links(verdict.volumes[1].findings) == []
    is_proven = "/extensions/a/lib/a.so" in traces
    assert [volume.name for volume in verdict.accused] == ([] if is_proven else ["a"])


def test_a_volume_that_takes_a_library_of_a_good_one_is_at_fault_before_those_it_spoils(
    world: World, settings: Callable[..., Settings]
) -> None:
    """The good one is used whatever becomes of it."""
    broken = {"needed": ["libgood.so", "libgeos.so.1"]}
    world.volume("a", {**OLD, "lib/a.so": broken}, "$libdir/a")
    world.volume("b", NEW, "$libdir/b")
    world.volume("c", {"system/libgood.so": {}})

    verdict = _verdict(world, settings)

    assert [volume.name for volume in verdict.accepted] == ["b", "c"]


def test_a_volume_that_goes_with_another_one_spoils_none_either(
    world: World, settings: Callable[..., Settings]
) -> None:
    """It seems good until that one is gone: those that took a library of its wait for that."""
    world.volume("a", {"system/liba.so": {}, "lib/a.so": MISSING}, "$libdir/a")
    world.volume("aa", {**OLD, "lib/aa.so": {"needed": ["liba.so"]}}, "$libdir/aa")
    world.volume("b", NEW, "$libdir/b")

    assert [volume.name for volume in _verdict(world, settings).accepted] == ["b"]


def test_what_the_loader_alone_says_with_a_broken_volume_in_its_way_is_asked_again(
    world: World, settings: Callable[..., Settings]
) -> None:
    """The emulation has nothing against it, so it is used meanwhile."""
    world.volume("a", {**OLD, "lib/a.so": MISSING}, "$libdir/a")
    world.volume("b", {"lib/b.so": {}}, "$libdir/b")
    broken = {"/extensions/a/lib/a.so": Trace(missing=("libgeos.so.1",))}

    verdict = _verdict(world, settings, broken | {"/extensions/b/lib/b.so": OLD_TAKEN})

    assert [volume.name for volume in verdict.accepted] == ["b"]


@pytest.mark.parametrize(
    ("traces", "accused"),
    [({}, ["a", "b"]), ({"/extensions/a/lib/a.so": Trace(missing=("libgeos.so.1",))}, [])],
)
def test_who_lacks_the_module_of_an_accused_volume_is_asked_about_with_it(
    world: World,
    settings: Callable[..., Settings],
    traces: Mapping[str, Trace],
    accused: list[str],
) -> None:
    """It is back if that one is cleared; where the loader agrees, there is nothing to ask."""
    world.volume("a", {"lib/a.so": MISSING}, "$libdir/a")
    world.volume("b", {"lib/b.so": {}}, "$libdir/a")

    verdict = _verdict(world, settings, traces)

    assert verdict.accepted == ()
    assert [volume.name for volume in verdict.accused] == accused


def test_volumes_that_spoil_each_other_are_both_left_out(
    world: World, settings: Callable[..., Settings]
) -> None:
    """Nobody can tell which one was wanted."""
    lacking = {"needed": ["libother.so"], "wants": ["other"]}
    world.volume("a", {**OLD, "lib/a.so": lacking}, "$libdir/a")
    world.volume("b", {**NEW, "system/libother.so": {}}, "$libdir/b")
    world.volume("c", {"lib/c.so": {}}, "$libdir/c")

    verdict = _verdict(world, settings)

    assert [volume.name for volume in verdict.accepted] == ["c"]
    assert [_links(volume.findings) for volume in verdict.volumes] == [*[["EXT042"]] * 2, []]


def test_what_the_loader_said_with_a_volume_in_its_way_counts_no_more_without_it(
    world: World, settings: Callable[..., Settings]
) -> None:
    """It was content with a library of a volume that is left out."""
    world.volume("a", {"system/liba.so": {}, "lib/a.so": MISSING}, "$libdir/a")
    world.volume("b", {"lib/b.so": {"needed": ["liba.so"]}}, "$libdir/b")

    verdict = _verdict(
        world,
        settings,
        {
            "/extensions/a/lib/a.so": Trace(missing=("libgeos.so.1",)),
            "/extensions/b/lib/b.so": Trace((("liba.so", "/extensions/a/system/liba.so"),)),
        },
    )

    assert verdict.accepted == ()
    assert [volume.name for volume in verdict.accused] == ["b"]


@pytest.mark.parametrize("parameter", ["session_preload_libraries", "Session_Preload_Libraries"])
def test_what_each_session_loads_is_asked_for(
    world: World, settings: Callable[..., Settings], parameter: str
) -> None:
    """It fails every connection."""
    world.volume("v", {"lib/m.so": MISSING}, "$libdir/other", suffixless=frozenset({"other"}))
    root = RootFacts("/extensions", tuple(world.volumes))
    loader = LoaderView(world.linkers(), "")
    asked = settings(parameters={parameter: 'x, "$libdir/m"'})

    verdict = judge(root, ServerFacts(18, world.machine), asked, loader=loader)

    assert _links(verdict.volumes[0].findings) == ["EXT040"]


def _links(findings: Iterable[Finding]) -> list[str]:
    return [each.code for each in findings if each.code.startswith("EXT04")]
