"""How measurements become figures; what they measure is not judged here."""

from __future__ import annotations

import json

import pytest

from tests.bench.figures import (
    Figure,
    Host,
    Report,
    Series,
    Storm,
    Storms,
    crash_restarts_in,
    reaped_in,
    render_table,
)
from tests.bench.probe_figures import Answers, Crowding, Handler, Probing

HOST = Host(
    processor="Z80",
    cores=2,
    memory_bytes=3 << 30,
    kernel="6.1",
    python="3.11.2",
    postgres="18.6",
    manager="0.1.0",
    file_system="ext4",
    load_before=0.5,
)


def figure(manager: tuple[float, ...], bare: tuple[float, ...] | None = None) -> Figure:
    """Return a figure of these values."""
    return Figure(
        name="first connection",
        unit="ms",
        manager=Series(manager),
        bare=Series(bare) if bare else None,
        aim="≤ +250",
    )


def test_one_disturbed_run_does_not_count() -> None:
    """The median of a series is told, and the range shows that something was odd."""
    series = Series((30.0, 9000.0, 31.0))

    assert series.median == 31.0
    assert series.text(0) == "31 (30-9000)"


def test_a_single_measurement_has_no_range() -> None:
    """One value is told alone."""
    assert Series((67.25,)).text(1) == "67.2"


def test_contestants_are_compared_pair_by_pair() -> None:
    """A host that gets slower in the middle of a run changes neither difference nor ratio."""
    slowing = figure((200.0, 210.0, 400.0), (100.0, 105.0, 200.0))

    assert slowing.ratio == 2.0
    assert slowing.difference == 105.0


def test_without_a_contestant_there_is_nothing_to_compare() -> None:
    """A figure of the manager alone has neither difference nor ratio."""
    alone = figure((3.0,))

    assert alone.difference is None
    assert alone.cells() == ["first connection, ms", "", "3", "", "", "≤ +250"]


def test_a_row_tells_both_and_what_lies_between() -> None:
    """Medians with ranges, the difference with its sign, the ratio, the aim."""
    row = figure((300.0, 310.0, 320.0), (30.0, 31.0, 32.0)).cells()

    assert row[1:] == ["31 (30-32)", "310 (300-320)", "+279", "10", "≤ +250"]


def test_a_table_is_markdown_with_its_columns_below_each_other() -> None:
    """Every cell of a column has the same width."""
    table = render_table(("a", "figure"), (("long text", "1"),))

    assert table.splitlines() == [
        "| a         | figure |",
        "| --------- | ------ |",
        "| long text | 1      |",
    ]


def test_programs_get_every_value() -> None:
    """The document is JSON, with the host, all values and what the text shows."""
    report = Report(HOST, (figure((2.0, 4.0), (1.0, 2.0)),), {"lock": Series((0.5,))})
    document = json.loads(json.dumps(report.document()))

    assert document["host"]["processor"] == "Z80"
    assert document["figures"][0]["manager"]["values"] == [2.0, 4.0]
    assert document["figures"][0]["ratio"] == 2.0
    assert document["startup_steps_ms"]["lock"]["median"] == 0.5


def test_the_text_names_the_host() -> None:
    """Figures without their host can't be compared with anything."""
    text = Report(HOST, (figure((2.0,)),)).text()

    assert "Z80, 2 cores, 3.0 GiB, kernel 6.1" in text
    assert "PostgreSQL 18.6" in text


def storm(crash_restarts: int, reaped: int | None) -> Storm:
    """Return what a storm did."""
    return Storm(
        orphans=200,
        crash_restarts=crash_restarts,
        sessions=4,
        sessions_lost=4 if crash_restarts else 0,
        postmaster_replaced=False,
        reaped=reaped,
        zombies=0,
    )


def test_a_crash_restart_is_found_in_either_log() -> None:
    """Postgres alone writes text, under the manager it is a field of JSON."""
    sentence = "terminating any other active server processes"
    alone = f"[1] LOG:  untracked child process (PID 9) exited\n[1] LOG:  {sentence}\n"
    managed = f'{{"level": "info", "message": "{sentence}"}}\n'

    assert crash_restarts_in(alone * 2 + "[1] LOG:  all server processes terminated\n") == 2
    assert crash_restarts_in(managed) == 1
    assert crash_restarts_in("") == 0


def test_the_metrics_tell_how_many_orphans_were_reaped() -> None:
    """The sample, not the comments above it."""
    name = "instance_manager_orphans_reaped_total"

    assert reaped_in(f"# TYPE {name} counter\n{name} 200.0\nother 1.0\n") == 200
    with pytest.raises(ValueError, match="don't count orphans"):
        reaped_in("other 1.0\n")


def test_the_same_storm_is_told_side_by_side() -> None:
    """A table of its own, and all of it for programs."""
    report = Report(HOST, (figure((2.0,)),), {}, Storms(storm(3, None), storm(0, 200)))

    assert "| crash restarts      | 3                 | 0                |" in report.text()
    assert "| orphans reaped      | not counted       | 200 of 200       |" in report.text()
    assert report.document()["orphans"]["bare"]["sessions_lost"] == 4


def test_answers_to_probes_are_compared_round_by_round() -> None:
    """A round in which the host was disturbed does not decide; bad answers are counted."""
    loop = Answers.of([[0.001] * 10, [0.1] * 10, [0.001] * 10])
    manager = Answers.of([[0.002] * 9 + [None], [0.1] * 10, [0.002] * 10])
    before = Handler({0.001: 10, float("inf"): 10}, 0.001, 10)
    handler = Handler({0.001: 29, float("inf"): 30}, 0.003, 30).since(before)
    text = Probing(500, {"manager": manager, "bare loop": loop}, handler).text()

    assert "30 (1 failed)" in text
    manager_cells = [cell.strip() for cell in text.splitlines()[2].split("|")]
    assert manager_cells[-3:-1] == ["2.00 (1.00-2.00)", "2.00 (1.00-2.00)"]
    assert "0.100 ms in the mean, and at most 1 ms in 95.00% of 20 answers" in text
    assert "Patroni could not be installed" in text


def test_answers_beside_a_crowd_are_held_against_the_loop_beside_the_same_crowd() -> None:
    """And those without a crowd against the loop that has none either."""
    answers = {
        "manager, alone": Answers.of([[0.001] * 10]),
        "bare loop, alone": Answers.of([[0.001] * 10]),
        "manager": Answers.of([[0.006] * 10]),
        "bare loop": Answers.of([[0.003] * 10]),
    }
    lines = Crowding(500, 500, 100, 7, answers).text().splitlines()

    assert "beside 500 idle connections and 100 handshakes" in lines[0]
    assert [line.split("|")[-2].strip() for line in lines[2:6]] == ["1.00", "1.00", "2.00", "1.00"]
    assert "7 were shown the door" in lines[-1]
