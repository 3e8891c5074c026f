from __future__ import annotations

import pytest

from instance_manager.databases.facts import (
    Available,
    Database,
    Installed,
    Inventory,
    Library,
    Override,
    Reading,
    Update,
    completed,
)
from instance_manager.databases.needs import control_files, judge, needs_of, outdated
from instance_manager.extensions.facts import ServerFacts
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.models import (
    Composed,
    ExtensionsReport,
    Finding,
    Preload,
    State,
    Volume,
)
from instance_manager.extensions.models import Library as File

LIBDIR = "/usr/lib/postgresql/18/lib"
SERVER = ServerFacts(
    major=18,
    machine="x86_64",
    libraries=frozenset({"plpgsql.so"}),
    extensions=frozenset({"plpgsql"}),
    library_directory=LIBDIR,
)
REPORT = ExtensionsReport(
    root="/extensions",
    scan_seconds=0,
    volumes=(),
    findings=(),
    composed=Composed(
        extension_control_path="$system:/extensions/pgvector/share",
        dynamic_library_path="$libdir:/extensions/pgvector/lib",
        shared_preload_libraries="",
        ld_library_path="",
        path="",
        env={},
    ),
)
VECTOR = Installed("vector", "0.8.0", "public")
IN_VECTOR = Library("$libdir/vector", "vector")
CONTROL = "/extensions/pgvector/share/extension/vector.control"


def using(
    *libraries: Library, overrides: tuple[Override, ...] = (), name: str = "app"
) -> Inventory:
    """Return the inventory of one database with pgvector."""
    return Inventory("", (Database(name, 16384, (VECTOR,), libraries),), overrides)


def said(inventory: Inventory, *present: str, report: ExtensionsReport = REPORT) -> list[str]:
    """Return codes and messages of what is missing."""
    found = judge(inventory, report, SERVER, frozenset(present))
    return [f"{each.code} {each.message}" for each in found]


@pytest.mark.parametrize(
    ("probin", "files"),
    [
        (
            "$libdir/vector",
            (
                f"{LIBDIR}/vector",
                "/extensions/pgvector/lib/vector",
                f"{LIBDIR}/vector.so",
                "/extensions/pgvector/lib/vector.so",
            ),
        ),
        ("$libdir/a/b", (f"{LIBDIR}/a/b", f"{LIBDIR}/a/b.so")),
        ("/x/y.so", ("/x/y.so", "/x/y.so.so")),
        ("relative/x", ()),
    ],
)
def test_a_library_is_looked_for_as_the_server_does(probin: str, files: tuple[str, ...]) -> None:
    """``$libdir/`` is stripped from a plain name only; without a suffix comes first."""
    (need,) = needs_of(using(Library(probin)), REPORT, SERVER)

    assert need.files == files


@pytest.mark.parametrize("there", [f"{LIBDIR}/vector.so", "/extensions/pgvector/lib/vector.so"])
def test_a_library_that_is_there_is_no_finding(there: str) -> None:
    """In a volume or in the server's own directory."""
    assert said(using(IN_VECTOR), there, CONTROL) == []


def test_a_library_that_is_nowhere_is_told_with_who_needs_it() -> None:
    """Database, extension, version, access method and library, and what the server would say."""
    library = Library("$libdir/vector", "vector", ("hnsw", "ivfflat"))

    (message,) = said(using(library))

    assert message == (
        'EXT070 database "app" uses extension "vector" 0.8.0 with access method hnsw, ivfflat'
        ' (library "vector") but no volume provides it; queries would fail with: could not'
        ' access file "vector"'
    )


def test_functions_of_nobodys_extension_need_their_library_too() -> None:
    """A C function that somebody made has no extension to name."""
    (message,) = said(using(Library("/srv/own.so")), CONTROL)

    assert 'database "app" uses functions (library "/srv/own.so")' in message


def test_many_databases_are_one_finding() -> None:
    """The first five are named, the others counted."""
    databases = tuple(Database(f"db{n}", n, (VECTOR,), (IN_VECTOR,)) for n in range(1000))
    (message,) = said(Inventory("", databases))

    assert 'databases "db0", "db1", "db2", "db3", "db4" and 995 more use' in message


def test_the_quarantined_volume_that_holds_it_is_named() -> None:
    """What is wrong with it is what has to be mended."""
    file = File(
        path="lib/vector.so",
        module=True,
        postgres_major=17,
        machine="x86_64",
        needed=(),
        preload=Preload.NO,
    )
    volume = Volume(
        name="pgvector",
        path="/extensions/pgvector",
        state=State.QUARANTINED,
        read_only=True,
        content_sha256=None,
        extensions=(),
        libraries=(file,),
        findings=(finding(Code.POSTGRES_MAJOR, "lib/vector.so", "it is for 17"),),
    )
    (message,) = said(using(IN_VECTOR), report=REPORT.model_copy(update={"volumes": (volume,)}))

    assert 'the volume "pgvector" that holds it is quarantined: EXT033 it is for 17' in message


def test_a_path_that_a_role_or_database_has_set_counts() -> None:
    """In doubt the library is there: some session finds it."""
    override = Override("dynamic_library_path", "$libdir:/srv/lib", None, "app")

    assert said(using(IN_VECTOR, overrides=(override,)), "/srv/lib/vector.so", CONTROL) == []
    other = Override("dynamic_library_path", "/srv/lib", "other", None)
    assert said(using(IN_VECTOR, overrides=(other,)), "/srv/lib/vector.so", CONTROL)


@pytest.mark.parametrize(
    ("parameter", "value", "library", "file"),
    [
        ("session_preload_libraries", "auto_explain", "auto_explain", "auto_explain.so"),
        ("session_preload_libraries", '"$libdir/x"', "$libdir/x", "x.so"),
        ("local_preload_libraries", "x", "$libdir/plugins/x", "plugins/x.so"),
    ],
)
@pytest.mark.parametrize(
    ("owner", "whose"),
    [
        (("app", None), 'database "app"'),
        ((None, "mallory"), 'role "mallory"'),
        (("app", "mallory"), 'role "mallory" in database "app"'),
        ((None, None), "all roles"),
    ],
)
def test_what_sessions_load_is_a_warning_that_names_whose_sessions(
    parameter: str, value: str, library: str, file: str, owner: tuple[str, str], whose: str
) -> None:
    """``$libdir/`` is not stripped there; whoever may set it must not keep a server down."""
    override = Override(parameter, value, *owner)
    inventory = using(overrides=(override,))
    (found,) = judge(inventory, REPORT, SERVER, frozenset({CONTROL}))

    assert (found.code, found.severity, found.subject) == ("EXT073", "warning", parameter)
    assert found.message == (
        f'sessions of {whose} load "{library}" by {parameter}, which is nowhere; logins would'
        f' fail with: could not access file "{library}"'
    )
    assert said(inventory, CONTROL, f"{LIBDIR}/{file}") == []


def test_a_list_of_libraries_is_one_finding_however_long_it_is() -> None:
    """Nobody's list makes a start or an answer long."""
    names = ",".join(f"{n:0200}" for n in range(100000))
    override = Override("local_preload_libraries", names, "app", "mallory")
    inventory = using(overrides=(override,) * 10)

    assert len(needs_of(inventory, REPORT, SERVER)) == 1000
    (message,) = said(inventory, CONTROL)
    assert "and 995 more by local_preload_libraries" in message
    assert len(message) < 1000


def test_a_library_that_contents_and_sessions_need_is_told_for_both() -> None:
    """The error by what the database holds, the warning by what was set."""
    override = Override("session_preload_libraries", "vector", "app", None)
    found = said(using(IN_VECTOR, overrides=(override,)), CONTROL)

    assert [each[:6] for each in found] == ["EXT070", "EXT073"]
    there = "/extensions/pgvector/lib/vector.so"
    assert said(using(IN_VECTOR, overrides=(override,)), CONTROL, there) == []


def test_a_control_file_that_is_nowhere_is_a_warning() -> None:
    """Queries work; where the library is gone too, that is said and nothing else."""
    (message,) = said(using(IN_VECTOR), f"{LIBDIR}/vector.so")

    assert message.startswith('EXT072 database "app" has extension "vector" 0.8.0, whose control')
    assert control_files(using(), REPORT, SERVER) == {"vector": (CONTROL,)}
    assert [each[:6] for each in said(using(IN_VECTOR))] == ["EXT070"]


def test_nothing_is_judged_of_a_server_whose_own_directories_are_not_known() -> None:
    """A start is not refused by a guess."""
    unknown = ServerFacts(major=18, machine="x86_64")

    assert judge(using(IN_VECTOR), REPORT, unknown, frozenset()) == ()


def test_a_database_that_could_not_be_read_needs_nothing_that_is_known() -> None:
    """Nothing is made up."""
    assert said(Inventory("", (Database("lost", 1),))) == []


@pytest.mark.parametrize(
    ("default", "targets", "codes"),
    [
        ("0.8.0", (), []),
        ("0.8.1", ("0.8.1",), ["EXT071"]),
        ("0.7.0", ("0.8.1",), ["EXT072"]),
        (None, (), []),
    ],
)
def test_a_version_that_is_not_the_one_that_is_there_is_told(
    default: str | None, targets: tuple[str, ...], codes: list[str]
) -> None:
    """An update, or that none leads there."""
    updates = {("vector", "0.8.0"): tuple(Update(each, ("0.8.0", each)) for each in targets)}
    reading = Reading(using(), (Available("vector", default),), updates)
    found: list[Finding] = list(outdated(reading.inventory.databases[0], reading))

    assert [each.code for each in found] == codes
    unknown = reading._replace(updates={("vector", "0.8.0"): None})
    assert list(outdated(unknown.inventory.databases[0], unknown)) == []


def test_an_installed_extension_that_is_not_available_is_told_where_that_is_known() -> None:
    """A server that can't list its extensions has said nothing."""
    reading = Reading(using(), ())
    (found,) = outdated(reading.inventory.databases[0], reading)

    assert found.code == "EXT072"
    assert list(outdated(reading.inventory.databases[0], Reading(using()))) == []


def test_what_could_not_be_read_is_taken_from_the_reading_before() -> None:
    """By the oid: a database of the same name may be another one; one that is gone stays so."""
    before = Inventory(
        "1", (Database("a", 1, (VECTOR,), (IN_VECTOR,)), Database("gone", 2, (VECTOR,), ()))
    )
    now = Inventory(
        "2",
        (Database("b", 1, None, (), ("it is locked",)), Database("gone", 3, problems=("no",))),
    )

    assert completed(now, before) == Inventory(
        "2", (Database("b", 1, (VECTOR,), ()), Database("gone", 3))
    )
    assert completed(now, None).databases[0].extensions is None
