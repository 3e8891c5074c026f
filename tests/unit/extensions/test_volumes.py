from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from instance_manager.extensions.control import parse
from instance_manager.extensions.facts import ControlFacts, LibraryFacts, ServerFacts, VolumeFacts
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.magic import Magic, MagicBlock
from instance_manager.extensions.metadata import Metadata
from instance_manager.extensions.volumes import judge_volume

if TYPE_CHECKING:
    from instance_manager.extensions.models import Finding

MakeVolume = Callable[..., VolumeFacts]
MakeLibrary = Callable[..., LibraryFacts]
SERVER = ServerFacts(major=18, machine="x86_64")
BLOCK = MagicBlock(72, 1800, 100, 32, 64, 1, "PostgreSQL")


def _judge(volume: VolumeFacts, *preloaded: str, server: ServerFacts = SERVER) -> list[Finding]:
    return list(judge_volume(volume, server, None, preloaded))


def _texts(volume: VolumeFacts, *preloaded: str, server: ServerFacts = SERVER) -> list[str]:
    return [f"{each.code} {each.message}" for each in _judge(volume, *preloaded, server=server)]


def _control(content: str, versions: tuple[str, ...] | None = ("1.0",)) -> ControlFacts:
    path = "share/extension/sample.control"
    return ControlFacts(
        "share", "sample", path, parse(content.encode()), "share/extension", versions
    )


def test_a_volume_that_fits_has_no_finding(volume_facts: MakeVolume) -> None:
    """A read-only mount with an extension and its module is simply fine."""
    assert _judge(volume_facts("pgvector", "vector")) == []


def test_a_server_before_18_can_use_no_volume(volume_facts: MakeVolume) -> None:
    """It is the only finding: whatever else is wrong does not matter there."""
    volume = volume_facts("pgvector", read_only=False)

    assert _texts(volume, server=ServerFacts(17, "x86_64")) == [
        (
            'EXT007 volume "pgvector" can\'t be used: PostgreSQL 17 has no extension_control_path,'
            " which came with 18"
        )
    ]


def test_what_could_not_be_opened_is_not_judged_further(volume_facts: MakeVolume) -> None:
    """A volume that nobody looked into would read as empty."""
    obstacle = finding(Code.BAD_NAME, "A", 'volume name "A" is not allowed')

    assert _judge(volume_facts("A", None, is_open=False, obstacles=(obstacle,))) == [obstacle]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"is_mount": False},
            (
                'EXT001 extension volume "v": /extensions/v is not a mount point; the image volume'
                " may be missing"
            ),
        ),
        (
            {"read_only": False},
            'EXT003 volume "v" is mounted read-write; extension volumes should be read-only',
        ),
        (
            {"noexec": True},
            (
                'EXT004 volume "v" is mounted noexec; PostgreSQL could not load its libraries'
                ' ("failed to map segment from shared object")'
            ),
        ),
        (
            {"path": "/exten:sions/v"},
            "EXT026 /exten:sions/v contains a character that cannot be used in a search path",
        ),
        (
            {"path": "/\udcff/v"},
            "EXT026 /\\xff/v contains a character that cannot be used in a search path",
        ),
    ],
)
def test_a_mount_that_is_not_as_it_should_be(
    volume_facts: MakeVolume, changes: dict[str, object], text: str
) -> None:
    """Each condition has its code and its sentence."""
    assert _texts(volume_facts("v", **changes)) == [text]


def test_a_volume_with_nothing_says_what_was_expected(volume_facts: MakeVolume) -> None:
    """No noexec finding either: there is nothing to execute."""
    assert _texts(volume_facts("v", None, noexec=True)) == [
        (
            'EXT002 volume "v" contains neither control files nor libraries'
            " (expected share/extension and lib)"
        )
    ]


def test_third_party_libraries_alone_are_something(
    volume_facts: MakeVolume, library_facts: MakeLibrary
) -> None:
    """An image may hold shared libraries only."""
    library = library_facts("system/libgeos.so.3", magic=None)

    assert _judge(volume_facts("v", None, libraries=(library,))) == []


def test_each_problem_of_a_control_file_is_a_finding(volume_facts: MakeVolume) -> None:
    """With file, line, and what it would break."""
    control = _control("magic_sauce = 1\nschema = s\nrelocatable = true\ndefault_version = '1.0'")

    assert _texts(volume_facts("v", controls=(control,))) == [
        (
            'EXT012 share/extension/sample.control:1: unrecognized parameter "magic_sauce"'
            " (the server would fail every query on pg_available_extensions)"
        ),
        (
            'EXT012 share/extension/sample.control: parameter "schema" cannot be specified when'
            ' "relocatable" is true (the server would fail every query on pg_available_extensions)'
        ),
    ]


def test_a_secondary_control_file_breaks_the_other_view(volume_facts: MakeVolume) -> None:
    """Only the view of versions reads it."""
    path = "share/extension/sample--1.0.control"
    control = _control("default_version = '1.0'")._replace(
        secondary=((path, parse(b"directory = x", secondary=True)),)
    )

    (text,) = _texts(volume_facts("v", controls=(control,)))

    assert text.startswith(f'EXT012 {path}:1: parameter "directory" cannot be set')
    assert "pg_available_extension_versions" in text


@pytest.mark.parametrize(
    ("content", "versions", "text"),
    [
        (
            "default_version = '2.0'",
            ("1.0",),
            (
                'EXT013 extension "sample": no installation script or update path for default'
                " version 2.0"
            ),
        ),
        ("comment = 'x'", (), 'EXT013 extension "sample": no installation script'),
        (
            "default_version = '1.0'",
            None,
            'EXT014 extension "sample": script directory share/extension does not exist',
        ),
    ],
)
def test_an_extension_that_cannot_be_created(
    volume_facts: MakeVolume, content: str, versions: tuple[str, ...] | None, text: str
) -> None:
    """The scripts must lead to the default version."""
    assert _texts(volume_facts("v", controls=(_control(content, versions),))) == [text]


def test_an_extension_without_a_default_version_can_be_created_by_version(
    volume_facts: MakeVolume,
) -> None:
    """``CREATE EXTENSION … VERSION`` works, so nothing is wrong."""
    assert _judge(volume_facts("v", controls=(_control("comment = 'x'"),))) == []


def test_a_trusted_extension_is_worth_knowing(volume_facts: MakeVolume) -> None:
    """It is information, no error."""
    control = _control("default_version = '1.0'\ntrusted = true")

    (found,) = _judge(volume_facts("v", controls=(control,)))

    assert (found.code, found.severity) == ("EXT018", "info")


@pytest.mark.parametrize(
    ("path", "changes", "text"),
    [
        (
            "lib/x.so",
            {"problem": "it is truncated", "magic": None},
            (
                "EXT030 lib/x.so is not a valid ELF shared object (it is truncated); loading"
                " it can crash the server"
            ),
        ),
        (
            "system/libx.so.1",
            {"problem": "it has no ELF header", "machine": None, "magic": None},
            (
                "EXT045 system/libx.so.1 is not loadable (it has no ELF header); the"
                " dynamic loader would stop at it"
            ),
        ),
        (
            "lib/x.so",
            {"machine": "aarch64"},
            (
                "EXT031 lib/x.so is built for aarch64, the server is x86_64 (the server would"
                ' report a misleading "No such file or directory")'
            ),
        ),
        (
            "system/libx.so.1",
            {"machine": "i386", "magic": None},
            (
                "EXT031 system/libx.so.1 is built for i386, the server is x86_64 (the server would"
                ' report a misleading "No such file or directory")'
            ),
        ),
        (
            "lib/x.so",
            {"magic": Magic(is_module=True, block=BLOCK._replace(version=1700, length=56))},
            "EXT033 lib/x.so was built for PostgreSQL 17, the server is 18",
        ),
        (
            "lib/x.so",
            {"magic": Magic(is_module=True, block=BLOCK._replace(version=906, length=28))},
            "EXT033 lib/x.so was built for PostgreSQL 9.6, the server is 18",
        ),
        (
            "lib/x.so",
            {"magic": Magic(is_module=True, block=BLOCK._replace(abi="Fork"))},
            'EXT034 lib/x.so: ABI "Fork" does not match the server\'s "PostgreSQL"',
        ),
        (
            "lib/x.so",
            {"magic": Magic(is_module=True, block=BLOCK._replace(name_length=128))},
            "EXT034 lib/x.so: NAMEDATALEN is 128, the server's is 64",
        ),
        (
            "lib/x.so",
            {"magic": Magic(is_module=True, block=BLOCK._replace(length=56))},
            "EXT034 lib/x.so: the length of the magic block is 56, the server's is 72",
        ),
        (
            "lib/x.so",
            {"magic": Magic(is_module=True, block=None)},
            "EXT035 could not read the magic block of lib/x.so statically; deferred to the server",
        ),
    ],
)
def test_a_library_that_does_not_fit_the_server(
    volume_facts: MakeVolume,
    library_facts: MakeLibrary,
    path: str,
    changes: dict[str, object],
    text: str,
) -> None:
    """Machine, form, version and ABI are told apart before the server sees the file."""
    library = library_facts(path, **changes)

    assert _texts(volume_facts("v", None, libraries=(library,))) == [text]


def test_a_library_that_the_extension_loads_must_be_a_module(
    volume_facts: MakeVolume, library_facts: MakeLibrary
) -> None:
    """Without a magic block the server refuses it."""
    plain = library_facts("lib/sample.so", magic=Magic(is_module=False, block=None))

    assert _texts(volume_facts("v", libraries=(plain,))) == [
        "EXT032 lib/sample.so is not a PostgreSQL module (no magic block)"
    ]


def test_a_library_that_nobody_loads_need_not_be_a_module(
    volume_facts: MakeVolume, library_facts: MakeLibrary
) -> None:
    """A third-party library may lie beside the modules, unless it is to be preloaded."""
    plain = library_facts("lib/libhelper.so", magic=Magic(is_module=False, block=None))
    volume = volume_facts("v", None, libraries=(plain,))

    assert _judge(volume) == []
    assert [each.code for each in _judge(volume, "libhelper")] == ["EXT032"]
    preloading = volume._replace(metadata=Metadata(shared_preload_libraries=("libhelper",)))
    assert [each.code for each in _judge(preloading)] == ["EXT032"]


def test_a_file_without_a_suffix_hides_the_library(volume_facts: MakeVolume) -> None:
    """The server tries the bare name first."""
    assert _texts(volume_facts("v", suffixless=frozenset({"sample", "other"}))) == [
        "EXT023 lib/sample would be loaded instead of lib/sample.so"
    ]


def test_a_reserved_variable_in_the_metadata_is_an_error(volume_facts: MakeVolume) -> None:
    """A volume can't do what it was built for, or was built to do harm."""
    volume = volume_facts("v", metadata=Metadata(env=(("LD_PRELOAD", "/x.so"),)))

    assert _texts(volume) == [
        "EXT060 volume \"v\": variable 'LD_PRELOAD' is reserved and can't be set by a volume"
    ]


def test_a_library_below_the_servers_own_directory_is_never_found(
    volume_facts: MakeVolume,
) -> None:
    """``$libdir/`` is stripped only where no other slash follows."""
    control = _control("default_version = '1.0'\nmodule_pathname = '$libdir/sub/sample'")

    assert _texts(volume_facts("v", controls=(control,))) == [
        (
            'EXT020 extension "sample": module_pathname is "$libdir/sub/sample"; a nested $libdir'
            " path is never searched in volumes"
        )
    ]


@pytest.mark.parametrize("path", ["$libdir/sample", "sample", "/opt/lib/sample", ""])
def test_other_places_of_a_library_are_not_nested(volume_facts: MakeVolume, path: str) -> None:
    """A bare name is searched for, an absolute path is taken as it is."""
    control = _control(f"default_version = '1.0'\nmodule_pathname = '{path}'")

    assert _texts(volume_facts("v", controls=(control,))) == []
