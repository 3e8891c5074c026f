from __future__ import annotations

from collections.abc import Callable

import pytest

from instance_manager.extensions.composition import Base, Composition, compose
from instance_manager.extensions.facts import LibraryFacts, PathLists, ServerFacts, VolumeFacts
from instance_manager.extensions.magic import Magic
from instance_manager.extensions.metadata import Metadata
from instance_manager.settings.models import Settings

MakeVolume = Callable[..., VolumeFacts]
MakeLibrary = Callable[..., LibraryFacts]
MakeSettings = Callable[..., Settings]
SERVER = ServerFacts(major=18, machine="x86_64")
PLAIN = Magic(is_module=False, block=None)


def _compose(
    settings: Settings,
    *volumes: VolumeFacts,
    base: Base | None = None,
    server: ServerFacts = SERVER,
) -> Composition:
    return compose(volumes, settings, server, base or Base())


def test_no_volume_leaves_the_servers_own_directories(settings: MakeSettings) -> None:
    """Nothing else is composed."""
    composed = _compose(settings()).composed

    assert composed.model_dump() == {
        "extension_control_path": "$system",
        "dynamic_library_path": "$libdir",
        "shared_preload_libraries": "",
        "ld_library_path": "",
        "path": "",
        "env": {},
    }


def test_volumes_follow_the_servers_own_in_their_order(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """The order of the volumes is the order of the paths."""
    composed = _compose(settings(), volume_facts("b", "x"), volume_facts("a", "y")).composed

    assert composed.extension_control_path == "$system:/extensions/b/share:/extensions/a/share"
    assert composed.dynamic_library_path == "$libdir:/extensions/b/lib:/extensions/a/lib"


def test_the_users_own_value_comes_last_without_duplicates(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """A repeated macro, a repeated volume and empty elements are dropped."""
    own = settings(
        parameters={
            "extension_control_path": "/opt/share:$system::/extensions/v/share:",
            "Dynamic_Library_Path": "$libdir:/opt/lib:",
        }
    )

    composed = _compose(own, volume_facts("v")).composed

    assert composed.extension_control_path == "$system:/extensions/v/share:/opt/share"
    assert composed.dynamic_library_path == "$libdir:/extensions/v/lib:/opt/lib"


def test_a_path_is_named_only_where_it_has_something_to_offer(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """No control files, no share; no modules, no lib."""
    modules_only = volume_facts("m", None, libraries=(library_facts("lib/m.so"),))
    scripts_only = volume_facts("s", libraries=())
    others = volume_facts("o", None, libraries=(library_facts("lib/libo.so", magic=PLAIN),))

    composed = _compose(settings(), modules_only, scripts_only, others).composed

    assert composed.extension_control_path == "$system:/extensions/s/share"
    assert composed.dynamic_library_path == "$libdir:/extensions/m/lib"


def test_a_volume_may_have_several_paths_or_be_one(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """Overridden lists keep their order, and ``.`` is the volume itself."""
    paths = PathLists(dynamic_library_path=("b", "a", "."))
    libraries = tuple(map(library_facts, ("a/one.so", "b/two.so")))
    root = library_facts("x.so")._replace(directory=".", name="x.so")
    volume = volume_facts("v", None, paths=paths, libraries=(*libraries, root))

    composed = _compose(settings(), volume).composed

    assert composed.dynamic_library_path == (
        "$libdir:/extensions/v/b:/extensions/v/a:/extensions/v"
    )


def test_a_path_that_would_break_a_list_is_never_composed(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Even if somebody accepted the volume."""
    composed = _compose(settings(), volume_facts("v", path="/exten:sions/v")).composed

    assert composed.extension_control_path == "$system"
    assert composed.dynamic_library_path == "$libdir"


def test_an_old_server_gets_no_parameter_that_it_does_not_know(settings: MakeSettings) -> None:
    """``extension_control_path`` came with 18; the other path is older."""
    own = settings(parameters={"dynamic_library_path": "/opt/lib"})

    composed = _compose(own, server=ServerFacts(17, "x86_64")).composed

    assert composed.extension_control_path == ""
    assert composed.dynamic_library_path == "$libdir:/opt/lib"


def test_the_loader_searches_where_modules_need_something(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """``system`` holds a needed library, ``lib`` does not."""
    module = library_facts("lib/postgis-3.so", needed=("libgeos.so.3", "libc.so.6"))
    needed = library_facts("system/libgeos.so.3", magic=None)
    volume = volume_facts("postgis", None, libraries=(module, needed))

    composed = _compose(settings(), volume).composed

    assert composed.ld_library_path == "/extensions/postgis/system"


def test_what_a_needed_library_needs_counts_too(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """Over libraries of other volumes, in circles, and modules that are libraries."""
    module = library_facts("lib/top.so", needed=("libone.so.1",))
    one = library_facts("system/libone.so.1", needed=("core.so",), magic=None)
    core = library_facts("lib/core.so", needed=("libone.so.1",))
    first = volume_facts("a", None, libraries=(module,))
    second = volume_facts("b", None, libraries=(core, one))

    composed = _compose(settings(), first, second).composed

    assert composed.ld_library_path == "/extensions/b/system:/extensions/b/lib"


def test_libraries_that_no_module_needs_are_not_searched(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """The loader's path can break the server itself, so it is kept short."""
    lonely = library_facts("system/libssl.so.3", needed=("libcrypto.so.3",), magic=None)
    other = library_facts("system/libcrypto.so.3", magic=None)

    composed = _compose(settings(), volume_facts("v", None, libraries=(lonely, other))).composed

    assert composed.ld_library_path == ""


def test_a_given_loader_path_is_taken_as_it_is(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Libraries that are opened at run time can't be seen from outside."""
    paths = PathLists(ld_library_path=("lib64", "lib"))
    volume = volume_facts("v", None, paths=paths, loader_paths_given=True)

    assert _compose(settings(), volume).composed.ld_library_path == (
        "/extensions/v/lib64:/extensions/v/lib"
    )


def test_the_environments_own_search_paths_stay_first(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """Without their empty elements, which would mean the current directory."""
    module = library_facts("lib/x.so", needed=("liby.so",))
    library = library_facts("system/liby.so", magic=None)
    paths = PathLists((), ("lib",), ("system",), ("bin", "sbin"))
    volume = volume_facts("v", None, libraries=(module, library), paths=paths)
    base = Base(path="/usr/bin::/bin:", ld_library_path=":/opt/lib")

    composed = _compose(settings(), volume, base=base).composed

    assert composed.path == "/usr/bin:/bin:/extensions/v/bin:/extensions/v/sbin"
    assert composed.ld_library_path == "/opt/lib:/extensions/v/system"


def test_variables_of_all_volumes_are_set(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Those of the settings and those of the metadata, with the mount expanded."""
    own = settings(
        volumes=[{"name": "a", "env": [{"name": "A", "value": "${image_root}/x"}]}, {"name": "b"}]
    )
    first, second = volume_facts("a"), volume_facts("b", metadata=Metadata(env=(("B", "$${b}"),)))

    assert _compose(own, first, second).composed.env == {"A": "/extensions/a/x", "B": "${b}"}


def test_the_users_libraries_are_loaded_first(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """In the user's order and under bare names; metadata's follow, nothing comes twice."""
    own = settings(preload=["$libdir/b.so", "a", "b", ""], volumes=[{"name": "v"}, {"name": "w"}])
    first = volume_facts("v", metadata=Metadata(shared_preload_libraries=("c", "a")))
    second = volume_facts("w", metadata=Metadata(shared_preload_libraries=("d", "c")))

    composition = _compose(own, first, second)

    assert composition.composed.shared_preload_libraries == "b,a,d,c"
    assert composition.findings == ()


def test_a_library_name_that_needs_quotes_gets_them(settings: MakeSettings) -> None:
    """A comma or a blank in a name would split the list."""
    own = settings(preload=['we"ird, name', "/opt/lib/x.so"])

    assert _compose(own).composed.shared_preload_libraries == '"we""ird, name",/opt/lib/x.so'


def test_a_volume_that_is_not_listed_loads_nothing(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """A mount alone changes nothing."""
    volume = volume_facts("cron", metadata=Metadata(shared_preload_libraries=("pg_cron", "x")))

    assert _compose(settings(preload=["x"]), volume).composed.shared_preload_libraries == "x"


def test_what_metadata_asks_for_is_loaded_in_an_order_that_works(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """What is known, and what the volumes say of their own libraries, over several volumes."""
    own = settings(preload=["z"], volumes=[{"name": "a"}, {"name": "b"}, {"name": "c"}])
    volumes = [
        volume_facts(
            "a",
            "a",
            metadata=Metadata(
                shared_preload_libraries=("a",),
                preload_after=(("a", ("c", "nowhere")), ("z", ("c",))),
            ),
        ),
        volume_facts("b", metadata=Metadata(shared_preload_libraries=("pg_stat_kcache",))),
        volume_facts("c", metadata=Metadata(shared_preload_libraries=("pg_stat_statements", "c"))),
    ]

    composed = _compose(own, *volumes).composed

    assert composed.shared_preload_libraries == "z,pg_stat_statements,pg_stat_kcache,c,a"


def test_a_library_that_a_module_opens_by_name_counts_as_needed(
    volume_facts: MakeVolume, library_facts: MakeLibrary, settings: MakeSettings
) -> None:
    """Its table does not say so; without this the loader would not look where it lies."""
    client = library_facts("system/libmysqlclient.so", magic=None)
    volume = volume_facts("m", None, libraries=(library_facts("lib/mysql_fdw.so"), client))

    assert _compose(settings(), volume).composed.ld_library_path == "/extensions/m/system"


def test_parameters_of_the_volumes_own_extensions_are_set(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """By the name of the extension or the module, with and without ``pg_``."""
    parameters = (("pg_cron.log_run", "off"), ("Cron.database_name", "app"))
    volume = volume_facts("v", "pg_cron", metadata=Metadata(postgresql_parameters=parameters))

    composition = _compose(settings(), volume)

    assert composition.parameters == {"pg_cron.log_run": "off", "cron.database_name": "app"}
    assert composition.findings == ()


@pytest.mark.parametrize(
    "name",
    [
        *("output_plugin_libraries", "shared_buffers", "auto_explain.log_min_duration"),
        *("sample", "sample.", "sample.a.b", "sample.a b", ".a", "archive_command"),
    ],
)
def test_any_other_parameter_is_refused(
    volume_facts: MakeVolume, settings: MakeSettings, name: str
) -> None:
    """A security list, the server's own and those of others are not a volume's to set."""
    volume = volume_facts("v", metadata=Metadata(postgresql_parameters=((name, "x"),)))

    composition = _compose(settings(), volume)

    assert composition.parameters == {}
    assert [(each.code, each.subject) for each in composition.findings] == [("EXT057", name)]


def test_the_users_parameters_win_and_then_the_first_volume(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """One parameter has one value."""
    parameters = Metadata(postgresql_parameters=(("sample.a", "1"), ("sample.b", "1")))
    others = Metadata(postgresql_parameters=(("sample.b", "2"),))
    own = settings(parameters={"Sample.A": "0"})
    volumes = volume_facts("v", metadata=parameters), volume_facts("w", metadata=others)

    assert _compose(own, *volumes).parameters == {"sample.b": "1"}
