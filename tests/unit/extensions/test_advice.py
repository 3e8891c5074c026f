from __future__ import annotations

from collections.abc import Callable

from instance_manager.extensions.advice import judge
from instance_manager.extensions.control import parse
from instance_manager.extensions.facts import ControlFacts, LibraryFacts, ServerFacts, VolumeFacts
from instance_manager.extensions.metadata import Metadata
from instance_manager.settings.models import Settings

MakeVolume = Callable[..., VolumeFacts]
MakeLibrary = Callable[..., LibraryFacts]
MakeSettings = Callable[..., Settings]
SERVER = ServerFacts(18, "x86_64", libraries=frozenset(), extensions=frozenset())


def _codes(settings: Settings, *volumes: VolumeFacts, files: frozenset[str]) -> list[str]:
    found = judge(volumes, volumes, SERVER, settings, files.__contains__)
    return [f"{name} {each.code}" for name, each in found]


def test_the_variables_of_all_volumes_and_the_users_directories_count(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """The environment and the search paths are the whole server's."""
    proj = library_facts("system/libproj.so.25", magic=None)
    variables = Metadata(env=(("PROJ_DATA", "${image_root}/share/proj"),))
    first = volume_facts("a", None, libraries=(proj,), metadata=Metadata(requires=("own",)))
    second = volume_facts("b", metadata=variables)
    files = frozenset({"/extensions/b/share/proj/proj.db", "/opt/share/extension/own.control"})
    own = settings(parameters={"Extension_Control_Path": "$system:/opt/share"})

    assert _codes(own, first, second, files=files) == []
    assert _codes(settings(), first, second, files=frozenset()) == ["a EXT015", "a EXT061"]


def test_only_so_much_is_told_of_one_volume(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """A hostile control file requires thousands."""
    names = ", ".join(f"gone{number}" for number in range(5000))
    control = parse(f"requires = '{names}'".encode())
    path = "share/extension/x.control"
    facts = ControlFacts("share", "x", path, control, "share/extension", ("1",))

    codes = _codes(settings(), volume_facts("v", None, controls=(facts,)), files=frozenset())

    assert codes == ["v EXT015"] * 20
