"""What the loader's traces mean for the volumes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from instance_manager.extensions.facts import RootFacts, ServerFacts, VolumeFacts
from instance_manager.extensions.loader_trace import Trace, UndefinedSymbol, VersionNeed
from instance_manager.extensions.models import Finding
from instance_manager.extensions.preflight import judge
from instance_manager.extensions.tracing_verdict import Needs, disagreement, needs_of
from instance_manager.settings.models import Settings

MakeVolume = Callable[..., VolumeFacts]
MakeSettings = Callable[..., Settings]
PROGRAM = "/usr/lib/postgresql/18/bin/postgres"
SERVER = ServerFacts(major=18, machine="x86_64", program=PROGRAM)
MODULE = "/extensions/sample/lib/sample.so"
BAD = Trace(missing=("libgone.so.1",), undefined=(UndefinedSymbol("gone", MODULE),))


def _findings(
    settings: Settings, traces: dict[str, Trace], *volumes: VolumeFacts
) -> dict[str, list[Finding]]:
    verdict = judge(RootFacts("/extensions", volumes), SERVER, settings, traces=traces)
    return {volume.name: list(volume.findings) for volume in verdict.volumes}


@pytest.mark.parametrize(
    ("trace", "code", "message"),
    [
        (BAD, "EXT040", "lib/sample.so needs libgone.so.1, not found by the dynamic loader"),
        (
            Trace(versions=(VersionNeed("/lib/libc.so.6", "GLIBC_2.99", MODULE),)),
            "EXT041",
            (
                "lib/sample.so needs libc.so.6(GLIBC_2.99), but /lib/libc.so.6 does not provide it"
                " (image built for a newer distribution?)"
            ),
        ),
        (
            Trace(undefined=tuple(UndefinedSymbol(f"f{n}", MODULE) for n in range(5))),
            "EXT042",
            (
                "lib/sample.so: undefined symbol f0, f1, f2 and 2 more; built for another"
                " PostgreSQL minor or fork?"
            ),
        ),
        (
            Trace(stop="/extensions/sample/lib/libz.so.1: file too short"),
            "EXT045",
            (
                "lib/sample.so can't be loaded: the dynamic loader stops: lib/libz.so.1: file too"
                " short"
            ),
        ),
        (
            Trace(refusal="file too short"),
            "EXT030",
            "lib/sample.so can't be loaded: the dynamic loader says: file too short",
        ),
    ],
)
def test_what_the_loader_has_against_a_module_quarantines_its_volume(
    volume_facts: MakeVolume, settings: MakeSettings, trace: Trace, code: str, message: str
) -> None:
    """One finding for each complaint, and only for the cause, not for what follows from it."""
    found = _findings(settings(), {MODULE: trace}, volume_facts("sample"))["sample"]

    assert [(one.code, one.message) for one in found] == [(code, message)]
    assert found[0].severity == "error"


def test_a_module_that_nothing_asks_for_warns(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Until the preload list names it."""
    volume = volume_facts("sample")._replace(controls=())

    (found,) = _findings(settings(), {MODULE: BAD}, volume)["sample"]
    assert (found.code, found.severity) == ("EXT047", "warning")
    asked = settings(preload=["sample"])
    assert [one.code for one in _findings(asked, {MODULE: BAD}, volume)["sample"]] == ["EXT040"]


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (
            Trace(versions=(VersionNeed("/extensions/bad/system/libz.so.1", "ZLIB_9", "x"),)),
            "x needs version ZLIB_9 of libz.so.1",
        ),
        (Trace(stop="/extensions/bad/system/libz.so.1: too short"), "system/libz.so.1: too short"),
        (
            Trace(
                resolved=(("libz.so.1", "/extensions/bad/system/libz.so.1"),),
                undefined=(UndefinedSymbol("deflate", PROGRAM),),
            ),
            "system/libz.so.1 is taken for the server's own, and lacks deflate",
        ),
    ],
)
def test_who_breaks_the_server_is_named(
    volume_facts: MakeVolume, settings: MakeSettings, trace: Trace, said: str
) -> None:
    """The volume whose library the server would get; the others are not touched."""
    volumes = volume_facts("bad", "other"), volume_facts("sample")

    found = _findings(settings(), {PROGRAM: trace}, *volumes)

    assert [one.code for one in found["bad"]] == ["EXT048"]
    assert found["bad"][0].message.endswith(said)
    assert found["sample"] == []


def test_a_library_that_lacks_a_version_is_blamed_for_what_is_undefined(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """And no other one that the server gets from another volume."""
    trace = Trace(
        resolved=(("libz.so.1", "/extensions/sample/system/libz.so.1"),),
        versions=(VersionNeed("/extensions/bad/system/libm.so.6", "GLIBC_9", PROGRAM),),
        undefined=(UndefinedSymbol("lgamma", PROGRAM),),
    )
    volumes = volume_facts("bad", "other"), volume_facts("sample")

    found = _findings(settings(), {PROGRAM: trace}, *volumes)

    assert [one.code for one in found["bad"]] == ["EXT048"]
    assert found["sample"] == []


def test_a_clean_trace_says_nothing(volume_facts: MakeVolume, settings: MakeSettings) -> None:
    """Nor does a trace of a module that is not there any more."""
    traces = {MODULE: Trace(), "/extensions/gone/lib/x.so": BAD}

    assert _findings(settings(), traces, volume_facts("sample")) == {"sample": []}


def test_loader_and_emulation_agree_or_the_difference_is_told() -> None:
    """Each difference with who sees it."""
    traced = needs_of(BAD)

    assert disagreement("lib/x.so", traced, Needs(missing=frozenset({"libgone.so.1"}))) is None
    found = disagreement("lib/x.so", traced, Needs(missing=frozenset({"libother.so"})))
    assert found is not None
    assert (found.code, found.severity) == ("EXT081", "warning")
    assert "missing libraries by ld.so alone: libgone.so.1" in found.message
    assert "missing libraries by the resolver alone: libother.so" in found.message


def test_versions_and_symbols_are_compared_too() -> None:
    """Symbols only where no library is missing, which might have had them."""
    trace = Trace(
        versions=(VersionNeed("/lib/libc.so.6", "GLIBC_9", MODULE),),
        undefined=(UndefinedSymbol("gone", MODULE),),
    )
    found = disagreement("lib/x.so", needs_of(trace), Needs())

    assert found is not None
    assert "versions by ld.so alone: libc.so.6(GLIBC_9)" in found.message
    assert "symbols by ld.so alone: gone" in found.message
