from __future__ import annotations

import pytest

from instance_manager.commands.report import (
    Findings,
    composed_lines,
    outcome,
    overview,
    totals,
    volume_lines,
)
from instance_manager.commands.text import Style
from instance_manager.errors import DataDirectoryError, PreflightError
from instance_manager.extensions.models import (
    Composed,
    Extension,
    ExtensionsReport,
    Finding,
    Library,
    Preload,
    Severity,
    State,
    Volume,
)
from instance_manager.extensions.reasons import why

NOTHING = Composed(
    extension_control_path="$system",
    dynamic_library_path="$libdir",
    shared_preload_libraries="",
    ld_library_path="",
    path="/usr/bin",
    env={},
)


def found(severity: Severity, code: str = "EXT999", message: str = "it is odd") -> Finding:
    return Finding(code=code, severity=severity, subject="it", message=message, hint="mend it")


def volume(name: str, state: State = State.READY, *findings: Finding) -> Volume:
    extension = Extension(
        name=name,
        default_version="1.0",
        versions=("1.0",),
        requires=(),
        trusted=True,
        module=name,
    )
    library = Library(
        path=f"lib/{name}.so",
        module=True,
        postgres_major=18,
        machine="x86_64",
        needed=(),
        preload=Preload.SERVER,
    )
    return Volume(
        name=name,
        path=f"/extensions/{name}",
        state=state,
        read_only=True,
        content_sha256=None,
        extensions=(extension,),
        libraries=(library, library.model_copy(update={"module": False})),
        findings=findings,
    )


def report(*volumes: Volume) -> ExtensionsReport:
    return ExtensionsReport(
        root="/extensions", scan_seconds=0.004, volumes=volumes, findings=(), composed=NOTHING
    )


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("it is odd", "EXT999 warning: a: it is odd"),
        ('volume "a" is odd', 'EXT999 warning: volume "a" is odd'),
        ('extension volume "a": odd', 'EXT999 warning: extension volume "a": odd'),
        ('volume "ab" is odd', 'EXT999 warning: a: volume "ab" is odd'),
    ],
)
def test_a_line_names_its_volume_once(message: str, line: str) -> None:
    """A message that is also in the log may name it itself."""
    lines = Findings(Style()).lines([found(Severity.WARNING, message=message)], "a")

    assert next(iter(lines)).strip() == line


def test_a_volume_says_what_it_holds() -> None:
    """Versions, marks, what it was built for, and how it is mounted."""
    style = Style()

    assert list(volume_lines(volume("cube"), Findings(style), style)) == [
        "cube: ready (cube 1.0 trusted)",
        (
            "  /extensions/cube, read-only: 1 extension, 1 module (for PostgreSQL 18, x86_64),"
            " 1 other library, to be loaded at the start: lib/cube.so, lib/cube.so"
        ),
    ]


def test_findings_are_sorted_by_severity_and_each_is_one_line_with_its_volume() -> None:
    """What is searched with grep is found, whichever codes there are."""
    given = [found(severity) for severity in (Severity.INFO, Severity.WARNING, Severity.ERROR)]

    lines = list(Findings(Style()).lines(given, "cube"))

    assert [line for line in lines if "EXT" in line] == [
        f"  EXT999 {severity}: cube: it is odd" for severity in ("error", "warning", "info")
    ]


def test_the_reason_and_the_way_out_follow() -> None:
    """What is wrong is half of what is to be known."""
    lines = list(Findings(Style()).lines([found(Severity.ERROR, "EXT031")]))

    assert lines == [
        "  EXT031 error: it is odd",
        f"    why: {why('EXT031')}",
        "    do:  mend it",
    ]


def test_warnings_are_explained_once_and_errors_each_time() -> None:
    """A hundred volumes that are all writable need it said once."""
    findings = Findings(Style())
    for severity, times in ((Severity.WARNING, 1), (Severity.ERROR, 2)):
        lines = [*findings.lines([found(severity)], "a"), *findings.lines([found(severity)], "b")]

        assert lines.count("    do:  mend it") == times


def test_a_terminal_shows_some_of_many_findings_of_a_code_and_a_file_all() -> None:
    """A screen has an end."""
    given = [found(Severity.ERROR, message=f"number {number}") for number in range(40)]

    on_terminal = list(Findings(Style(width=80)).lines(given))
    in_file = list(Findings(Style()).lines(given))

    assert sum("number" in line for line in on_terminal) == 5
    assert any("35 more of EXT999" in line for line in on_terminal)
    assert sum("number" in line for line in in_file) == 40


def test_the_overview_counts_the_states() -> None:
    """One look says whether all is well."""
    volumes = report(volume("a"), volume("b", State.QUARANTINED), volume("c", State.EMPTY))

    assert list(overview(volumes, Style())) == [
        "/extensions: 3 volumes (1 ready, 1 quarantined, 1 empty), 4 ms"
    ]
    assert list(overview(report(), Style())) == ["/extensions: no extension volumes"]


def test_what_is_composed_is_readable() -> None:
    """Parameters and environment by the names under which they are set."""
    composed = NOTHING.model_copy(update={"env": {"PROJ_DATA": "/extensions/gis/share/proj"}})

    lines = list(composed_lines(composed, {"cron.database_name": "app"}, Style()))

    assert [line.split() for line in lines[1:]] == [
        ["extension_control_path", "$system"],
        ["dynamic_library_path", "$libdir"],
        ["shared_preload_libraries", "-"],
        ["cron.database_name", "app"],
        ["LD_LIBRARY_PATH", "-"],
        ["PATH", "/usr/bin"],
        ["PROJ_DATA", "/extensions/gis/share/proj"],
    ]


def test_totals_count_by_severity() -> None:
    """No errors is said in words."""
    given = [found(Severity.ERROR), found(Severity.WARNING), found(Severity.WARNING)]

    assert totals(given) == "1 error, 2 warnings"
    assert totals([], 1) == "1 error"
    assert totals([found(Severity.INFO)]) == "no errors, 1 info"


@pytest.mark.parametrize(
    ("volumes", "is_new", "expected"),
    [
        ([], False, "would start postgres without extension volumes: nothing is mounted under"),
        ([volume("a")], True, "would make a new cluster and start postgres with 1 volume"),
        (
            [volume("a"), volume("b", State.QUARANTINED, found(Severity.ERROR, "EXT031"))],
            False,
            (
                "would start postgres with 1 volume, and leave out"
                " b (EXT031: a library is for another machine)"
            ),
        ),
        (
            [volume("b", State.QUARANTINED, found(Severity.ERROR))],
            False,
            "would start postgres with no volume, and leave out b (EXT999: it is odd)",
        ),
    ],
    ids=["nothing", "new", "one left out", "an unknown code"],
)
def test_the_outcome_says_what_run_would_do(
    volumes: list[Volume], is_new: bool, expected: str
) -> None:
    """The last line is the one that is read at night."""
    assert outcome(report(*volumes), None, is_new=is_new).startswith(expected)


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (
            PreflightError("cannot start postgres: a is not there"),
            "would refuse to start postgres (exit code 3): a is not there",
        ),
        (
            DataDirectoryError("cannot use it"),
            "would refuse to start postgres (exit code 7): cannot use it",
        ),
    ],
)
def test_a_refusal_comes_with_its_exit_code(
    refusal: PreflightError | DataDirectoryError, expected: str
) -> None:
    """The code that the container would end with."""
    assert outcome(report(volume("a")), refusal, is_new=False) == expected
