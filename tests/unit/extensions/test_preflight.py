from __future__ import annotations

from collections.abc import Callable

import pytest

from instance_manager.extensions.control import parse
from instance_manager.extensions.facts import ControlFacts, RootFacts, ServerFacts, VolumeFacts
from instance_manager.extensions.findings import REFUSING, RULES, Code, finding
from instance_manager.extensions.metadata import Metadata
from instance_manager.extensions.models import Composed, ExtensionsReport, Library
from instance_manager.extensions.preflight import Verdict, judge
from instance_manager.extensions.refusals import refusal
from instance_manager.settings.models import Settings

MakeVolume = Callable[..., VolumeFacts]
MakeSettings = Callable[..., Settings]
SERVER = ServerFacts(major=18, machine="x86_64")
NOTHING = Composed(
    extension_control_path="",
    dynamic_library_path="",
    shared_preload_libraries="",
    ld_library_path="",
    path="",
    env={},
)


def _broken(volume: VolumeFacts) -> VolumeFacts:
    return volume._replace(obstacles=(finding(Code.DANGLING_LINK, "lib/x.so", "it is broken"),))


def _judge(settings: Settings, *volumes: VolumeFacts, server: ServerFacts = SERVER) -> Verdict:
    return judge(RootFacts("/extensions", volumes), server, settings)


def _report(verdict: Verdict) -> ExtensionsReport:
    return ExtensionsReport(
        root="/extensions",
        scan_seconds=0,
        volumes=verdict.volumes,
        findings=verdict.findings,
        composed=NOTHING,
    )


def _needing(module: str) -> ControlFacts:
    control = parse(f"default_version = '1'\nmodule_pathname = '$libdir/{module}'".encode())
    path = f"share/extension/{module}_sql.control"
    return ControlFacts("share", f"{module}_sql", path, control, "share/extension", ("1",))


def test_volumes_are_ready_empty_or_quarantined(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """An error quarantines; nothing to offer is empty; a warning changes nothing."""
    fine = volume_facts("a", read_only=False)
    verdict = _judge(settings(), fine, volume_facts("b", None), _broken(volume_facts("c", "x")))

    assert [volume.state for volume in verdict.volumes] == ["ready", "empty", "quarantined"]
    assert [volume.name for volume in verdict.accepted] == ["a", "b"]


def test_a_volume_is_described_as_the_contract_shows(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Extension and library have the documented fields, and the module's own name and version."""
    facts = volume_facts("pgvector", "vector")
    facts = facts._replace(
        libraries=(facts.libraries[0]._replace(needed=("libm.so.6", "libc.so.6")),),
        metadata=Metadata(
            shared_preload_libraries=("vector",), provenance=(("version", "0.8.7"),)
        ),
    )

    (volume,) = _judge(settings(), facts).volumes

    assert volume.model_dump(mode="json") == {
        "name": "pgvector",
        "path": "/extensions/pgvector",
        "state": "ready",
        "read_only": True,
        "content_sha256": None,
        "extensions": [
            {
                "name": "vector",
                "default_version": "1.0",
                "versions": ["1.0"],
                "requires": [],
                "trusted": False,
                "module": "vector",
            }
        ],
        "libraries": [
            {
                "path": "lib/vector.so",
                "module": True,
                "postgres_major": 18,
                "machine": "x86_64",
                "needed": ["libm.so.6", "libc.so.6"],
                "preload": "server",
                "name": None,
                "version": None,
            }
        ],
        "findings": [],
        "provenance": {"version": "0.8.7"},
    }


def test_what_can_not_be_read_of_a_library_is_null(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """No ELF header, no machine and no version."""
    facts = volume_facts("v")
    damaged = facts.libraries[0]._replace(problem="it is empty", machine=None, magic=None)

    (volume,) = _judge(settings(), facts._replace(libraries=(damaged,))).volumes

    assert volume.libraries == (
        Library.model_validate(
            {
                "path": "lib/sample.so",
                "module": False,
                "postgres_major": None,
                "machine": None,
                "needed": (),
                "preload": "no",
            }
        ),
    )


def test_a_missing_module_is_an_error(volume_facts: MakeVolume, settings: MakeSettings) -> None:
    """Neither this volume, nor another, nor the server has it."""
    lacking = volume_facts("v", "vector", libraries=())

    (volume,) = _judge(settings(), lacking).volumes

    assert [each.message for each in volume.findings] == [
        'extension "vector" needs library "vector", which is not in dynamic_library_path'
    ]
    assert volume.findings[0].code == "EXT021"


def test_another_volume_or_the_server_may_hold_the_module(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """The server searches the whole path."""
    lacking = volume_facts("v", None, controls=(_needing("sample"),))
    server = SERVER._replace(libraries=frozenset({"sample.so"}))

    together = _judge(settings(), lacking, volume_facts("w"))
    based = _judge(settings(), lacking, server=server)

    assert [volume.state for volume in together.volumes] == ["ready", "ready"]
    assert based.volumes[0].state == "ready"


def test_what_a_quarantined_volume_holds_is_missing_to_others(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Over any number of steps, in any order."""
    first = volume_facts("a", None, controls=(_needing("b"),))
    second = volume_facts("b", "b", controls=(_needing("c"),))
    third = _broken(volume_facts("c", "c"))

    verdict = _judge(settings(), first, second, third)

    assert [volume.state for volume in verdict.volumes] == ["quarantined"] * 3
    assert [volume.findings[-1].code for volume in verdict.volumes] == [
        "EXT021",
        "EXT021",
        "EXT010",
    ]


def test_a_file_without_a_suffix_is_a_module_too(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """The server finds it by its bare name."""
    volume = volume_facts("v", libraries=(), suffixless=frozenset({"sample"}))

    assert _judge(settings(), volume).volumes[0].state == "ready"


def test_metadata_that_preloads_what_is_nowhere_is_an_error(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """The server would refuse to start; where its libraries are not known nothing is said."""
    volume = volume_facts("v", metadata=Metadata(shared_preload_libraries=("sample", "nowhere")))
    server = SERVER._replace(libraries=frozenset({"plpgsql.so"}))

    (judged,) = _judge(settings(), volume, server=server).volumes

    assert [(each.code, each.subject) for each in judged.findings] == [("EXT021", "nowhere")]
    assert _judge(settings(), volume).volumes[0].findings == ()


def test_the_later_of_two_volumes_that_set_a_variable_differently_is_left_out(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Equal values are no conflict, and a quarantined volume has none."""
    broken = _broken(volume_facts("a", "a", metadata=Metadata(env=(("X", "0"),))))
    first = volume_facts("b", "b", metadata=Metadata(env=(("X", "1"), ("Y", "1"))))
    second = volume_facts("c", "c", metadata=Metadata(env=(("X", "2"), ("Y", "1"))))

    verdict = _judge(settings(), broken, first, second)

    assert [volume.name for volume in verdict.accepted] == ["b"]
    (conflict,) = verdict.volumes[2].findings
    assert (conflict.code, conflict.subject) == ("EXT060", "X")
    assert conflict.message == 'volumes "b" and "c" set X differently'


def test_the_variables_of_a_volume_that_is_left_out_do_not_count(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """The third volume agrees with the first, so it is used."""
    volumes = [
        volume_facts(name, name, metadata=Metadata(env=(("X", value),)))
        for name, value in (("a", "1"), ("b", "2"), ("c", "1"))
    ]

    assert [volume.name for volume in _judge(settings(), *volumes).accepted] == ["a", "c"]


def test_an_extension_in_two_volumes_is_a_finding_of_the_set(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """The first one wins; a quarantined one does not count."""
    broken = _broken(volume_facts("a"))

    verdict = _judge(settings(), broken, volume_facts("b"), volume_facts("c"))

    assert [f"{each.code} {each.message}" for each in verdict.findings] == [
        'EXT016 extension "sample" is provided by b and c; b wins because it comes first'
    ]
    assert [volume.state for volume in verdict.volumes[1:]] == ["ready", "ready"]


def test_listed_volumes_that_are_not_there_are_findings_of_the_set(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """A required one is an error, any other a warning."""
    listed = settings(volumes=[{"name": "v"}, {"name": "w"}, {"name": "x", "required": True}])

    verdict = _judge(listed, volume_facts("v"))

    assert [(each.code, each.severity, each.subject) for each in verdict.findings] == [
        ("EXT008", "warning", "w"),
        ("EXT009", "error", "x"),
    ]


def test_what_the_root_itself_has_comes_first(settings: MakeSettings) -> None:
    """An unreadable root is a finding of the set."""
    obstacle = finding(Code.UNREADABLE, "/extensions", "cannot read it")

    verdict = judge(RootFacts("/extensions", (), (obstacle,)), SERVER, settings())

    assert verdict.findings == (obstacle,)


def test_an_old_server_accepts_no_volume(volume_facts: MakeVolume, settings: MakeSettings) -> None:
    """A volume found there is a finding, and nothing of it is used."""
    verdict = _judge(settings(), volume_facts("v"), server=ServerFacts(17, "x86_64"))

    assert verdict.accepted == ()
    assert [each.code for each in verdict.volumes[0].findings] == ["EXT007"]


def test_quarantine_starts_without_the_bad_volume(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Nothing that the user named needs it."""
    report = _report(_judge(settings(), _broken(volume_facts("v"))))

    assert refusal(report, settings()) is None


@pytest.mark.parametrize("is_warning_only", [True, False])
def test_refuse_forbids_the_start_for_any_error_and_for_no_warning(
    volume_facts: MakeVolume, settings: MakeSettings, *, is_warning_only: bool
) -> None:
    """All errors stand in the message, each with its volume and code."""
    strict = settings(policy="refuse", volumes=[{"name": "w"}])
    volume = volume_facts("v", read_only=False)
    report = _report(_judge(strict, volume if is_warning_only else _broken(volume)))

    refused = refusal(report, strict)

    if is_warning_only:
        assert refused is None
    else:
        assert refused is not None
        assert refused.exit_code == 3
        assert refused.message == ('cannot start postgres: volume "v": EXT010 it is broken')
        assert refused.hint == "put the file itself into the extension image"


def test_errors_of_the_set_count_under_refuse(settings: MakeSettings) -> None:
    """A root that can't be read proves nothing."""
    strict = settings(policy="refuse")
    obstacle = finding(Code.UNREADABLE, "/extensions", "cannot read it")
    verdict = judge(RootFacts("/extensions", (), (obstacle,)), SERVER, strict)

    refused = refusal(_report(verdict), strict)

    assert refused is not None
    assert refused.message == "cannot start postgres: EXT006 cannot read it"


@pytest.mark.parametrize("policy", ["quarantine", "refuse"])
def test_what_databases_need_forbids_the_start_by_a_setting_of_its_own(
    settings: MakeSettings, policy: str
) -> None:
    """Whatever the policy; reported or ignored, it forbids nothing."""
    enforcing = settings(policy=policy, inventory="enforce")
    vanished = finding(Code.VANISHED, "vector", 'database "app" uses it')
    report = _report(Verdict((), (vanished,), ()))

    refused = refusal(report, enforcing)

    assert refused is not None
    assert refused.message == 'cannot start postgres: EXT070 database "app" uses it'
    assert "--ignore-inventory" in refused.hint
    assert refusal(report, enforcing, ignore_inventory=True) is None
    assert refusal(report, settings(policy=policy, inventory="report")) is None


def test_a_required_volume_must_be_there_and_fit(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Absent and quarantined are both named, with the way out."""
    listed = settings(
        volumes=[{"name": name, "required": True} for name in ("fine", "bad", "gone")]
    )
    verdict = _judge(listed, volume_facts("fine"), _broken(volume_facts("bad", "x")))

    refused = refusal(_report(verdict), listed)

    assert refused is not None
    assert refused.message == (
        'cannot start postgres: the required volume "bad" is quarantined: EXT010 it is broken;'
        ' the required volume "gone" is not there'
    )
    assert "mount it at /extensions/gone" in refused.hint


@pytest.mark.parametrize("entry", ["vector", "$libdir/vector", "/extensions/bad/lib/vector.so"])
def test_a_preloaded_library_of_a_quarantined_volume_forbids_the_start(
    volume_facts: MakeVolume, settings: MakeSettings, entry: str
) -> None:
    """The server would not start either; the message names volume, finding and way out."""
    wanting = settings(preload=["pg_stat_statements", entry])
    report = _report(_judge(wanting, _broken(volume_facts("bad", "vector"))))

    refused = refusal(report, wanting)

    assert refused is not None
    name = entry.removeprefix("$libdir/")
    assert refused.message == (
        f'cannot start postgres: shared_preload_libraries names "{name}", which only the'
        ' quarantined volume "bad" holds: EXT010 it is broken'
    )
    assert refused.hint.endswith(f'or take "{name}" out of postgres.shared_preload_libraries')


@pytest.mark.parametrize("code", [Code.UNREADABLE, Code.DANGLING_LINK])
def test_a_preloaded_library_that_can_not_be_read_is_not_called_missing(
    volume_facts: MakeVolume, settings: MakeSettings, code: Code
) -> None:
    """It is in a volume that is quarantined for it: that says more than EXT051."""
    wanting = settings(preload=["vector"])
    volume = volume_facts("bad", "other")
    unread = finding(code, "lib/vector.so", "it can't be read")
    report = _report(_judge(wanting, volume._replace(obstacles=(unread,))))
    missing = finding(Code.PRELOAD_MISSING, "vector", "it is missing")

    refused = refusal(report.model_copy(update={"findings": (missing,)}), wanting)

    assert refused is not None
    assert refused.message == (
        'cannot start postgres: shared_preload_libraries names "vector", which only the'
        f' quarantined volume "bad" holds: {code} it can\'t be read'
    )


def test_a_preloaded_library_that_is_elsewhere_too_starts(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Another volume, or the server itself, has it."""
    wanting = settings(preload=["vector"])
    bad = _broken(volume_facts("bad", "vector"))
    alone = _report(_judge(wanting, bad))

    assert refusal(_report(_judge(wanting, bad, volume_facts("ok", "vector"))), wanting) is None
    assert refusal(alone, wanting, {"vector.so"}) is None
    assert refusal(alone, wanting, {"vectors.so"}) is not None


@pytest.mark.parametrize("code", sorted(REFUSING - {Code.REQUIRED_ABSENT}))
def test_what_the_server_would_fail_on_forbids_the_start(
    settings: MakeSettings, code: Code
) -> None:
    """Under every policy, since no quarantine takes it away."""
    verdict = _judge(settings())
    report = _report(verdict).model_copy(update={"findings": (finding(code, "x", "it fails"),)})

    refused = refusal(report, settings())

    assert refused is not None
    assert refused.exit_code == 3
    assert refused.message == f"cannot start postgres: {code} it fails"
    assert refused.hint == RULES[code].hint


def test_what_databases_need_forbids_the_start_only_if_it_is_enforced(
    settings: MakeSettings,
) -> None:
    """A restored backup may need what is gone for good."""
    told = settings(inventory="report")
    found = finding(Code.VANISHED, "app", "it is gone")
    report = _report(_judge(told)).model_copy(update={"findings": (found,)})

    assert refusal(report, told) is None


def test_other_errors_of_the_set_forbid_nothing(settings: MakeSettings) -> None:
    """A root that can't be read, or too many volumes: the rest starts."""
    found = finding(Code.LIMIT, "/extensions", "there are more")
    report = _report(_judge(settings())).model_copy(update={"findings": (found,)})

    assert refusal(report, settings()) is None


def test_a_preloaded_library_of_a_quarantined_volume_is_told_once(
    volume_facts: MakeVolume, settings: MakeSettings
) -> None:
    """Why its volume is quarantined says more than that it is missing."""
    wanting = settings(preload=["vector"])
    report = _report(_judge(wanting, _broken(volume_facts("bad", "vector"))))
    missing = finding(Code.PRELOAD_MISSING, "vector", "it is missing")

    refused = refusal(report.model_copy(update={"findings": (missing,)}), wanting)

    assert refused is not None
    assert "quarantined" in refused.message
    assert "EXT051" not in refused.message
