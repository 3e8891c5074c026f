"""The loader's words, as they are; as it says them of real modules stands in the integration."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.extensions.loader_trace import (
    Trace,
    UndefinedSymbol,
    VersionNeed,
    parse,
    printable,
    trace_variables,
    unaskable,
)

MODULE = "/extensions/sample/lib/sample.so"
OUTPUT = f"""\
\tlinux-vdso.so.1 (0x00007ffc0d5f2000)
\t{MODULE} (0x00007f2d8a000000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f2d89c00000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f2d8a400000)
"""


def test_a_clean_trace_names_what_was_taken() -> None:
    """The module itself and the kernel's part are no answers to a need."""
    trace = parse(MODULE, OUTPUT, "", "")

    assert trace == Trace(resolved=(("libz.so.1", "/lib/x86_64-linux-gnu/libz.so.1"),))
    assert trace is not None
    assert trace.is_clean


def test_each_complaint_is_understood() -> None:
    """What is missing, too old, undefined; a weak version is none, nor a missing table."""
    errors = f"""\
postgres: /lib/libc.so.6: version `GLIBC_2.99' not found (required by {MODULE})
postgres: /lib/libm.so.6: weak version `GLIBC_9' not found (required by {MODULE})
postgres: /lib/libq.so.6: no version information available (required by {MODULE})
undefined symbol: lookup\t({MODULE})
undefined symbol: memcpy, version GLIBC_2.99\t({MODULE})
"""
    trace = parse(MODULE, OUTPUT + "\tlibgone.so.1 => not found\n", errors, "")

    assert trace is not None
    assert trace.missing == ("libgone.so.1",)
    assert trace.versions == (VersionNeed("/lib/libc.so.6", "GLIBC_2.99", MODULE),)
    assert trace.undefined == (
        UndefinedSymbol("lookup", MODULE),
        UndefinedSymbol("memcpy", MODULE),
    )
    assert not trace.is_clean


def test_a_module_that_is_not_taken_says_why() -> None:
    """It stands nowhere among what was mapped."""
    errors = (
        f"ERROR: ld.so: object '{MODULE}' from LD_PRELOAD cannot be preloaded"
        " (file too short): ignored.\n"
    )
    trace = parse(MODULE, OUTPUT.replace(MODULE, "/other"), errors, "")

    assert trace is not None
    assert trace.refusal == "file too short"


@pytest.mark.parametrize(
    ("errors", "ending", "stop"),
    [
        (
            "postgres: error while loading shared libraries: /x/libz.so.1: file too short\n",
            "exit code 127",
            "/x/libz.so.1: file too short",
        ),
        ("", "signal SIGBUS", "signal SIGBUS"),
        (
            "Inconsistency detected by ld.so: dl-lookup.c: 107\n",
            "exit code 127",
            "exit code 127: Inconsistency detected by ld.so: dl-lookup.c: 107",
        ),
    ],
)
def test_a_loader_that_gives_up_says_where(errors: str, ending: str, stop: str) -> None:
    """In its own words, or by how it ended."""
    trace = parse(MODULE, "", errors, ending)

    assert trace is not None
    assert trace.stop == stop


def test_a_crash_over_a_missing_library_is_not_the_reason() -> None:
    """The loader names the library, then crashes over the versions that are wanted of it."""
    trace = parse(MODULE, OUTPUT + "\tlibgone.so.1 => not found\n", "", "signal SIGSEGV")

    assert trace is not None
    assert (trace.missing, trace.stop) == (("libgone.so.1",), "")


def test_what_is_no_trace_of_the_module_is_no_answer() -> None:
    """A loader without the mode runs the program; one in its secure mode takes no module."""
    assert parse(MODULE, "postgres (PostgreSQL) 18.6\n", "", "") is None
    assert parse(MODULE, OUTPUT.replace(MODULE, "/other"), "", "") is None
    assert parse("", OUTPUT, "", "") is not None


@pytest.mark.parametrize("name", ["a\nb", "a => /b\n\t", "\x1b[2Ja\r", "a => b (0x1)\n", "x\ty"])
def test_no_name_hides_that_it_is_missing(name: str) -> None:
    """Whatever the part is called that is seen of it."""
    missing = parse(MODULE, f"{OUTPUT}\t{name} => not found\n", "", "")
    undefined = parse(MODULE, OUTPUT, f"undefined symbol: {name}\t({MODULE})\n", "")

    assert missing is not None
    assert missing.missing
    assert undefined is not None
    assert undefined.undefined


@given(st.text(), st.text(), st.sampled_from(["", "signal SIGSEGV"]))
def test_no_output_makes_the_reader_fail(output: str, errors: str, ending: str) -> None:
    """What is taken from it can be printed."""
    trace = parse(MODULE, OUTPUT + output, errors, ending)

    assert trace is not None
    texts = [*trace.missing, trace.refusal, trace.stop]
    texts += [text for each in (*trace.versions, *trace.undefined) for text in each]
    texts += [text for pair in trace.resolved for text in pair]
    assert all(text.isprintable() or not text for text in texts)


@pytest.mark.parametrize(
    "line",
    [
        "\t" + " => /" * 200_000,
        "undefined symbol: " + ", version " * 100_000,
        "p: /l: version `" * 60_000,
        "\tx => not found\n" * 60_000,
        "\t" + "x" * 1_000_000 + " => not found",
    ],
)
def test_a_megabyte_of_malice_takes_no_time(line: str) -> None:
    """Each pass over it is one pass, and only so much is kept."""
    begun = time.monotonic()
    trace = parse(MODULE, OUTPUT + line, line, "")

    assert trace is not None
    assert time.monotonic() - begun < 10
    assert len(trace.missing) <= 500
    assert all(len(text) < 1000 for text in trace.missing)


def test_what_can_not_be_printed_is_escaped_and_what_is_long_is_cut() -> None:
    """As in a log of any terminal."""
    assert printable("a\x1b[1m\n\u202eb") == "a\\x1b[1m\\n\\u202eb"
    assert len(printable("x" * 4096)) < 300


def test_the_loader_is_asked_only_what_it_can_be_asked() -> None:
    """LD_PRELOAD is a list, and knows placeholders."""
    assert unaskable(MODULE) == ""
    for path in ("/a b/x.so", "/a:b/x.so", "/$ORIGIN/x.so", "/a\n/x.so"):
        assert unaskable(path)


def test_the_variables_name_the_module_and_the_path_where_there_is_one() -> None:
    """An empty library path would be the current directory."""
    assert trace_variables(MODULE, "/a")["LD_LIBRARY_PATH"] == "/a"
    assert "LD_LIBRARY_PATH" not in trace_variables(MODULE, "")
    assert "LD_PRELOAD" not in trace_variables("", "/a")
