from __future__ import annotations

from collections.abc import Callable

import pytest

from instance_manager.extensions.facts import LibraryFacts, PathLists, ServerFacts, VolumeFacts
from instance_manager.extensions.magic import Magic
from instance_manager.extensions.roles import judge
from instance_manager.extensions.signals import JIT_PROVIDER, OUTPUT_PLUGIN

MakeVolume = Callable[..., VolumeFacts]
MakeLibrary = Callable[..., LibraryFacts]
SERVER = ServerFacts(18, "x86_64", number=180006)
PLAIN = Magic(is_module=False, block=None)


def _judge(
    volume: VolumeFacts, number: int = 180006, **parameters: str
) -> list[tuple[str, str, str]]:
    found = judge(volume, SERVER._replace(number=number), parameters)
    return [(each.code, each.subject, each.message) for each in found]


@pytest.fixture
def plugin(volume_facts: MakeVolume, library_facts: MakeLibrary) -> VolumeFacts:
    """Return a volume with an output plugin."""
    library = library_facts("lib/wal2json.so", entry_points=frozenset({OUTPUT_PLUGIN}))
    return volume_facts("v", None, libraries=(library,))


def test_an_output_plugin_that_is_not_trusted_is_told(plugin: VolumeFacts) -> None:
    """The list is a matter of security, so a volume never fills it."""
    expected = [
        (
            "EXT054",
            "lib/wal2json.so",
            (
                '"wal2json" is a logical decoding plugin, which output_plugin_libraries does not'
                " name"
            ),
        )
    ]

    assert _judge(plugin) == expected
    assert _judge(plugin, output_plugin_libraries="pgoutput, $libdir/wal2json") == expected
    assert _judge(plugin, output_plugin_libraries="pgoutput, wal2json") == []


@pytest.mark.parametrize("number", [0, 170010, 180004])
def test_a_server_without_the_list_trusts_every_output_plugin(
    plugin: VolumeFacts, number: int
) -> None:
    """The parameter came with 18.6, and setting it before would end the start."""
    assert _judge(plugin, number) == []


def test_just_in_time_compilation_can_not_come_from_a_volume(
    volume_facts: MakeVolume, library_facts: MakeLibrary
) -> None:
    """The server looks for the provider in one directory, and says nothing if it is not there."""
    library = library_facts("lib/llvmjit.so", entry_points=frozenset({JIT_PROVIDER}))

    (found,) = _judge(volume_facts("v", None, libraries=(library,)))

    assert found[:2] == ("EXT056", "lib/llvmjit.so")


@pytest.mark.parametrize(
    ("searched", "loaded", "found"),
    [
        (("lib",), ("system", "lib"), []),
        (("lib", "system"), ("system", "lib"), ["system"]),
        (("lib", "modules"), ("system",), ["lib"]),
        (("empty",), (), []),
        (("damaged",), (), []),
    ],
)
def test_a_directory_of_modules_without_one_is_told(
    volume_facts: MakeVolume,
    library_facts: MakeLibrary,
    searched: tuple[str, ...],
    loaded: tuple[str, ...],
    found: list[str],
) -> None:
    """Unless it is the usual place of both kinds, or its files have worse problems."""
    libraries = (
        library_facts("lib/libgeos.so.3", magic=PLAIN),
        library_facts("system/libproj.so.25", magic=PLAIN),
        library_facts("modules/sample.so"),
        library_facts("modules/libown.so", magic=PLAIN),
        library_facts("damaged/sample.so", magic=None, problem="it is empty"),
    )
    paths = PathLists(dynamic_library_path=searched, ld_library_path=loaded)

    told = _judge(volume_facts("v", None, libraries=libraries, paths=paths))

    assert [(code, subject) for code, subject, _ in told] == [("EXT046", each) for each in found]
