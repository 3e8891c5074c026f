from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from instance_manager.extensions.composition import Base, compose
from instance_manager.extensions.facts import LibraryFacts, RootFacts, ServerFacts, VolumeFacts
from instance_manager.extensions.metadata import Metadata
from instance_manager.extensions.models import Preload
from instance_manager.extensions.preflight import judge as judge_all
from instance_manager.extensions.preloading import judge, wanting
from instance_manager.settings.models import Settings

MakeVolume = Callable[..., VolumeFacts]
MakeLibrary = Callable[..., LibraryFacts]
MakeSettings = Callable[..., Settings]
OWN = frozenset({"plpgsql.so", "pg_stat_statements.so"})
SERVER = ServerFacts(18, "x86_64", libraries=OWN, library_directory="/pg/lib")
FILES = {f"/pg/lib/{name}" for name in OWN} | {"/pg/lib/plugins/auth.so", "/opt/lib/own.so"}


def _judge(
    settings: Settings, *volumes: VolumeFacts, server: ServerFacts = SERVER
) -> list[tuple[str, str]]:
    composed = compose(volumes, settings, server, Base()).composed
    held = {f"{each.path}/{library.path}" for each in volumes for library in each.searched()}
    found = judge(volumes, composed, settings, server, (FILES | held).__contains__)
    return [(each.code, each.message) for each in found]


def _codes(settings: Settings, *volumes: VolumeFacts) -> list[str]:
    return [code for code, _ in _judge(settings, *volumes)]


def test_libraries_that_are_there_are_no_finding(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """The server's own, a volume's, the user's, and one by its path."""
    names = ["pg_stat_statements", "sample", "own", "/extensions/v/lib/sample.so"]
    own = settings(
        preload=names,
        parameters={
            "dynamic_library_path": "/opt/lib",
            "Session_Preload_Libraries": "plpgsql, own",
            "local_preload_libraries": "auth, $libdir/plugins/auth",
        },
    )

    assert _judge(own, volume_facts("v")) == []


def test_a_library_that_is_missing_at_the_start_is_an_error(settings: MakeSettings) -> None:
    """In the words that the server would end with."""
    assert _judge(settings(preload=["nosuchlib", "plpgsql"])) == [
        (
            "EXT051",
            (
                'shared_preload_libraries lists "nosuchlib", not found; the server would refuse to'
                ' start: could not access file "nosuchlib": No such file or directory'
            ),
        )
    ]


def test_a_library_that_each_session_would_miss_is_an_error(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """The composition does not touch this list, so that a prefix counts in it."""
    own = settings(parameters={"session_preload_libraries": "gone, $libdir/sample"})

    assert _judge(own, volume_facts("v")) == [
        (
            "EXT051",
            (
                'session_preload_libraries lists "gone", not found; every connection would fail:'
                ' could not access file "gone": No such file or directory'
            ),
        ),
        (
            "EXT051",
            (
                'session_preload_libraries lists "$libdir/sample", not found; every connection'
                ' would fail: could not access file "$libdir/sample": No such file or directory'
                ' (as "sample" it would be found)'
            ),
        ),
    ]


def test_nothing_is_called_missing_where_the_servers_own_directory_is_not_known(
    settings: MakeSettings,
) -> None:
    """Nor what begins in the data directory, which is the server's own affair."""
    own = settings(preload=["x"], parameters={"local_preload_libraries": "y"})

    assert _judge(own, server=SERVER._replace(library_directory="")) == []
    assert _judge(settings(preload=["sub/x"])) == []


def test_a_prefix_that_hides_a_volume_is_left_out_and_told(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Where the server has the library itself, the prefix does no harm."""
    own = settings(preload=["$libdir/sample", "$libdir/plpgsql", "$libdir/plugins/auth"])

    assert _judge(own, volume_facts("v")) == [
        (
            "EXT052",
            (
                'shared_preload_libraries lists "$libdir/sample", which the server would not'
                ' search for in volumes: "sample" is loaded instead'
            ),
        )
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pg_stat_statements", "pg_stat_kcache"], None),
        (
            ["pg_stat_kcache", "pg_stat_statements"],
            ('"pg_stat_kcache" must come after "pg_stat_statements" in shared_preload_libraries'),
        ),
        (
            ["/extensions/v/lib/pg_stat_kcache.so"],
            (
                '"pg_stat_kcache" must come after "pg_stat_statements" in'
                ' shared_preload_libraries, which does not list "pg_stat_statements"'
            ),
        ),
    ],
)
def test_an_order_that_can_not_work_is_an_error(
    volume_facts: MakeVolume, settings: MakeSettings, names: Sequence[str], message: str | None
) -> None:
    """The user's order stays as it is, and is refused."""
    found = _judge(settings(preload=names), volume_facts("v", "pg_stat_kcache"))

    assert found == ([("EXT053", message)] if message else [])


def test_an_order_that_a_volume_says_is_kept_or_refused(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """What metadata asks for comes after what the user lists, so that it may come too late."""
    orders = Metadata(preload_after=(("sample", ("first",)),))
    first = volume_facts("a", "first", metadata=Metadata(shared_preload_libraries=("first",)))
    second = volume_facts("b", metadata=orders)
    listed = [{"name": "a"}]

    assert _codes(settings(preload=["first", "sample"]), first, second) == []
    assert _codes(settings(preload=["sample"], volumes=listed), first, second) == ["EXT053"]


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        ("gone", 'could not access file "$libdir/plugins/gone": No such file or directory'),
        ("$libdir/auth", 'access to library "$libdir/auth" is not allowed'),
        ("$libdir/plugins/a/b", 'access to library "$libdir/plugins/a/b" is not allowed'),
        ("/opt/lib/own", 'access to library "/opt/lib/own" is not allowed'),
    ],
)
def test_a_library_that_sessions_may_not_load_is_an_error(
    settings: MakeSettings, entry: str, answer: str
) -> None:
    """Only what lies in ``$libdir/plugins``, where no volume is."""
    own = settings(parameters={"local_preload_libraries": entry})

    assert _judge(own) == [
        (
            "EXT055",
            (
                f'local_preload_libraries lists "{entry}", which is not in $libdir/plugins;'
                f" every connection would fail: {answer}"
            ),
        )
    ]


def test_a_library_that_wants_to_be_loaded_is_told_until_it_is_listed(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """Metadata's word, or the library's own; a path of the user's counts as well."""
    said = volume_facts(
        "cron", "pg_cron", metadata=Metadata(shared_preload_libraries=("pg_cron",))
    )
    itself = volume_facts(
        "audit", None, libraries=(library_facts("lib/pgaudit.so", speaks_of_preloading=True),)
    )
    message = (
        'library "{}" of volume "{}" must be in shared_preload_libraries, as {} says, but it is'
        " not listed"
    )

    assert _judge(settings(), said, itself) == [
        ("EXT050", message.format("pg_cron", "cron", "its metadata")),
        ("EXT050", message.format("pgaudit", "audit", "the library itself")),
    ]
    listed = settings(preload=["/extensions/audit/lib/pgaudit.so"], volumes=[{"name": "cron"}])
    assert _judge(listed, said, itself) == []


def test_of_libraries_with_versions_only_the_one_without_is_to_be_loaded(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """It loads the one that fits; what metadata names replaces every guess."""
    names = ("timescaledb", "timescaledb-2.31.0", "timescaledb-tsl-2.31.0", "pg_other")
    libraries = tuple(library_facts(f"lib/{name}.so", speaks_of_preloading=True) for name in names)
    volume = volume_facts("t", None, libraries=libraries)
    told = volume._replace(metadata=Metadata(shared_preload_libraries=("timescaledb",)))

    assert list(wanting(volume)) == ["timescaledb", "pg_other"]
    assert list(wanting(told)) == ["timescaledb"]
    (described,) = judge_all(RootFacts("/extensions", (told,)), SERVER, settings()).volumes
    preload = {each.path: each.preload for each in described.libraries}
    assert preload["lib/timescaledb.so"] is Preload.SERVER
    assert preload["lib/timescaledb-2.31.0.so"] is Preload.NO
