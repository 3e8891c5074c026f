from __future__ import annotations

from collections.abc import Callable

from instance_manager.extensions.control import parse
from instance_manager.extensions.facts import ControlFacts, LibraryFacts, ServerFacts, VolumeFacts
from instance_manager.extensions.metadata import Metadata
from instance_manager.extensions.relations import Offer, judge

MakeVolume = Callable[..., VolumeFacts]
MakeLibrary = Callable[..., LibraryFacts]
SERVER = ServerFacts(
    18,
    "x86_64",
    libraries=frozenset({"plpgsql.so", "pgcrypto.so"}),
    extensions=frozenset({"plpgsql", "pgcrypto"}),
)


def _control(extension: str, *lines: str, secondary: str = "") -> ControlFacts:
    content = "\n".join(("default_version = '1'", *lines))
    path = f"share/extension/{extension}.control"
    others = (
        ((f"share/extension/{extension}--1.control", parse(secondary.encode())),)
        if secondary
        else ()
    )
    return ControlFacts(
        *("share", extension, path, parse(content.encode()), "share/extension", ("1",), others)
    )


def _judge(
    *volumes: VolumeFacts,
    quarantined: VolumeFacts | None = None,
    server: ServerFacts = SERVER,
    files: frozenset[str] = frozenset(),
) -> list[tuple[str, str, str]]:
    every = volumes if quarantined is None else (*volumes, quarantined)
    offer = Offer(every, volumes, server, ("/opt/share",), files.__contains__)
    return [(name, found.code, found.message) for name, found in judge(offer)]


def test_what_another_volume_the_server_or_the_user_has_is_not_missing(
    volume_facts: MakeVolume,
) -> None:
    """The order of the volumes does not matter, nor does a volume's own other extension."""
    control = _control("h3_postgis", "requires = 'postgis, plpgsql, own, h3'")
    first = volume_facts("h3", None, controls=(control, _control("h3")))
    files = frozenset({"/opt/share/extension/own.control"})

    assert _judge(first, volume_facts("postgis", "postgis"), files=files) == []


def test_a_required_extension_that_is_nowhere_is_told_once(volume_facts: MakeVolume) -> None:
    """Whether the control file says so, that of a version, or the metadata."""
    control = _control("h3", "requires = 'gone'", secondary="requires = 'gone, lost'")
    volume = volume_facts(
        "h3", None, controls=(control,), metadata=Metadata(requires=("gone", "other"))
    )
    end = "which no volume and not the server provides"

    assert _judge(volume) == [
        ("h3", "EXT015", f'extension "h3" requires "gone", {end}'),
        ("h3", "EXT015", f'extension "h3" requires "lost", {end}'),
        ("h3", "EXT015", f'volume "h3" requires "other", {end}'),
    ]


def test_nothing_is_missing_where_the_servers_own_extensions_are_not_known(
    volume_facts: MakeVolume,
) -> None:
    """It may be one of them."""
    volume = volume_facts("v", metadata=Metadata(requires=("gone",)))

    assert _judge(volume, server=SERVER._replace(extensions=None)) == []


def test_a_requirement_that_only_a_quarantined_volume_meets_names_it(
    volume_facts: MakeVolume,
) -> None:
    """That volume is what must be mended."""
    needing = volume_facts("a", None, controls=(_control("h3_postgis", "requires = postgis"),))

    assert _judge(needing, quarantined=volume_facts("geo", "postgis")) == [
        (
            "a",
            "EXT015",
            (
                'extension "h3_postgis" requires "postgis", which only the quarantined volume'
                ' "geo" provides'
            ),
        )
    ]


def test_a_quarantined_volume_lacks_nothing_that_it_has_itself(volume_facts: MakeVolume) -> None:
    """Its extensions come and go together."""
    controls = (_control("a"), _control("b", "requires = a"))

    assert _judge(quarantined=volume_facts("v", None, controls=controls)) == []


def test_an_extension_that_the_server_has_itself_is_hidden(volume_facts: MakeVolume) -> None:
    """It says all: that its library is the server's too follows from it."""
    assert _judge(volume_facts("v", "pgcrypto")) == [
        (
            "v",
            "EXT017",
            'extension "pgcrypto" in volume "v" is hidden by the server\'s own copy',
        )
    ]


def test_a_library_that_is_found_elsewhere_first_is_told(
    volume_facts: MakeVolume, library_facts: MakeLibrary
) -> None:
    """In an earlier volume, in the server's own directory, or as a file without a suffix."""
    library = library_facts("lib/same.so")
    one = volume_facts("a", "one", controls=(_control("one"),), libraries=(library,))
    module = "module_pathname = '$libdir/same'"
    two = volume_facts("b", "two", controls=(_control("two", module),), libraries=(library,))
    bare = volume_facts("c", None, suffixless=frozenset({"same"}))
    own = SERVER._replace(libraries=frozenset({"same.so"}))
    start = 'library "same" of extension "two" resolves to'

    assert _judge(two, one) == []
    assert _judge(one, two) == [
        ("b", "EXT022", f'{start} /extensions/a/lib/same.so, in volume "a"')
    ]
    assert _judge(two, server=own) == [
        ("b", "EXT022", f"{start} $libdir/same.so, in the server's own directory")
    ]
    assert _judge(two, bare) == [
        ("b", "EXT022", f'{start} a file same without a suffix, in volume "c"')
    ]


def test_a_library_of_a_required_volume_is_used_on_purpose(volume_facts: MakeVolume) -> None:
    """Without a word of it in control file or metadata it may be a slip."""
    lines = ("module_pathname = '$libdir/sample'",)
    silent = volume_facts("a", None, controls=(_control("x", *lines),))
    saying = silent._replace(controls=(_control("x", *lines, "requires = sample"),))
    described = silent._replace(metadata=Metadata(requires=("sample",)))
    holder = volume_facts("b")

    assert [code for _, code, _ in _judge(silent, holder)] == ["EXT022"]
    assert _judge(saying, holder) == _judge(described, holder) == []


def test_an_extension_that_an_earlier_volume_offers_is_not_judged_by_its_library(
    volume_facts: MakeVolume,
) -> None:
    """The server never reads its control file, which is a finding of its own."""
    assert _judge(volume_facts("a"), volume_facts("b")) == []


def test_a_builder_may_require_a_volume_of_libraries_by_its_name(
    volume_facts: MakeVolume,
) -> None:
    """As it is mounted or as it was built; a control file requires extensions only."""
    described = Metadata(requires=("gdal",))
    needing = volume_facts("postgis", None, metadata=described)
    mounted = volume_facts("gdal", None)
    built = volume_facts("libraries", None, metadata=Metadata(provenance=(("name", "gdal"),)))

    assert _judge(needing, mounted) == []
    assert _judge(needing, built) == []
    assert [code for _, code, _ in _judge(needing)] == ["EXT015"]
    assert _judge(needing, quarantined=mounted)[0][2] == (
        'volume "postgis" requires "gdal", which only the quarantined volume "gdal" provides'
    )
    control = _control("raster", "requires = gdal")
    asking = volume_facts("postgis", None, controls=(control,), metadata=described)
    assert [code for _, code, _ in _judge(asking, mounted)] == ["EXT015"]
