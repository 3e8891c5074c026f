"""The documentation against the code: what users look up must be there, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from instance_manager import cli
from instance_manager.api.problems import STATUSES, RequestCode, problem_of
from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES
from instance_manager.client_errors import error_of
from instance_manager.configuration.checks import CHECKS
from instance_manager.configuration.parameters import OWNED
from instance_manager.errors import Exit
from instance_manager.extensions.findings import REFUSING, RULES, Code
from instance_manager.extensions.models import Severity
from instance_manager.health.verdicts import HEARTBEAT_LIMIT_SECONDS, CheckName
from instance_manager.observability.metrics import (
    Measurements,
    MetricFacts,
    PostgresFacts,
    render,
)
from instance_manager.settings import Settings
from instance_manager.settings.image_environment import VARIABLES
from instance_manager.settings.keys import known_keys
from instance_manager.settings.loading import load
from instance_manager.settings.schema import schema
from instance_manager.settings.sources import SettingsText
from instance_manager.supervision.states import Phase

CHECKOUT = Path(__file__).parents[2]
README = CHECKOUT / "README.md"
DOCS = CHECKOUT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
PAGES = (README, CHECKOUT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
_ROUTE = re.compile(r"`(GET|POST|PUT|DELETE) (/[^`\s]*)`")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_TYPES = {"boolean": "on or off", "string": "text", "object": "map"}


def text(page: Path | str) -> str:
    """Return a page; a name is one of those in docs."""
    path = DOCS / page if isinstance(page, str) else page
    return path.read_text(encoding="utf-8")


def blocks(page: Path | str, language: str) -> list[str]:
    """Return the fenced blocks of a page that are in this language."""
    return [body for name, body in _FENCE.findall(text(page)) if name == language]


def rows(page: Path | str, heading: str = "") -> list[list[str]]:
    """Return the cells of all rows of tables, of one section where a heading is given."""
    content = text(page)
    if heading:
        _, found, content = content.partition(f"\n{heading}\n")
        assert found, f"{page} has no heading {heading!r}"
        content = re.split(r"^#+ ", content, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in content.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def first_codes(table: list[list[str]]) -> set[str]:
    """Return the first cells that are code, without the marks."""
    return {cells[0].strip("`") for cells in table if cells[0].startswith("`")}


def described_settings() -> list[str]:
    """Return the row of each key as docs/settings.md has it, from the schema."""
    document = schema()
    return [_row(path, _entry(document, path)) for path in known_keys()]


def _entry(document: dict[str, Any], path: str) -> dict[str, Any]:
    node = document
    *sections, name = path.split(".")
    for section in sections:
        node = document["$defs"][node["properties"][section]["$ref"].rpartition("/")[2]]
    entry: dict[str, Any] = node["properties"][name]
    return entry


def _row(path: str, entry: dict[str, Any]) -> str:
    applied = "live" if entry["x-applied"] == "live" else "new start"
    cells = (f"`{path}`", _type(entry), _default(entry), applied, entry["description"])
    return f"| {' | '.join(cells)} |"


def _type(entry: dict[str, Any]) -> str:
    if "anyOf" in entry:
        # What may be null is "not set", which the default says.
        return _type(next(one for one in entry["anyOf"] if one["type"] != "null"))
    if "enum" in entry:
        return " or ".join(f"`{word}`" for word in entry["enum"])
    if entry["type"] == "array":
        return "list of maps" if "$ref" in entry["items"] else "list of text"
    if entry["type"] in {"integer", "number"}:
        return ("whole number" if entry["type"] == "integer" else "number") + _range(entry)
    return "path" if entry.get("format") == "path" else _TYPES[entry["type"]]


def _range(entry: dict[str, Any]) -> str:
    if "maximum" in entry:
        return f", {entry['minimum']} to {entry['maximum']}"
    if "exclusiveMinimum" in entry:
        return f", more than {entry['exclusiveMinimum']}"
    return f", at least {entry['minimum']}"


def _default(entry: dict[str, Any]) -> str:
    value = entry["default"]
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def test_every_settings_key_is_described_as_the_schema_has_it() -> None:
    """Type, default, and whether a change needs a new start."""
    described = [line for line in text("settings.md").splitlines() if re.match(r"\| `\w", line)]
    keys = [line for line in described if line.split("`")[1] in known_keys()]

    assert keys == described_settings()


def test_every_variable_of_the_official_image_is_described_with_its_key() -> None:
    """People who change images look for the names that they have."""
    table = rows("settings.md", "## The official image's variables")

    assert first_codes(table) == set(VARIABLES)


def test_every_owned_parameter_is_listed() -> None:
    """What may not stand in postgres.parameters is known before it is refused."""
    table = rows("settings.md", "## Parameters of the manager's own")

    assert first_codes(table) == set(OWNED)


def test_the_main_settings_in_the_readme_are_keys() -> None:
    """The short table names no key that is not there."""
    assert first_codes(rows(README, "## Main settings")) <= set(known_keys())


def test_every_route_is_documented_and_no_other() -> None:
    """Reference and code name the same methods and paths."""
    routes = {(route.method, route.path) for route in (*HEALTH_ROUTES, *CONTROL_ROUTES)}
    documented = {*_ROUTE.findall(text("api.md")), *_ROUTE.findall(text("probes.md"))}

    assert documented == routes


def test_the_endpoints_in_the_readme_are_routes() -> None:
    """The short table promises nothing that is not served."""
    routes = {(route.method, route.path) for route in (*HEALTH_ROUTES, *CONTROL_ROUTES)}

    assert set(_ROUTE.findall(text(README))) <= routes


def test_every_problem_code_is_documented_with_its_status() -> None:
    """Programs match codes, so they are part of the interface."""
    table = rows("api.md", "## Problems")
    documented = {cells[0].strip("`"): int(cells[1]) for cells in table if "`" in cells[0]}

    assert documented == {str(code): status for code, status in STATUSES.items()}


def test_every_exit_code_is_documented_and_no_other() -> None:
    """The table in the README is that of the program."""
    codes = {value for name, value in vars(Exit).items() if name.isupper()}
    documented = {cells[0].strip("`") for cells in rows(README, "## Exit codes")}

    assert {code for code in documented if code.isdigit()} == {str(code) for code in codes}


def test_every_finding_is_in_the_overview_with_what_it_means_for_the_start() -> None:
    """Severity, title, and whether it refuses: the table is that of the code."""
    documented = [tuple(cells) for cells in rows("findings.md") if "EXT" in cells[0]]

    assert documented == [
        (f"[{code}](#{code.lower()})", str(rule.severity), rule.title, refuses(code))
        for code, rule in RULES.items()
    ]


def refuses(code: Code) -> str:
    """Return the word of the overview: does a finding of this code forbid the start?"""
    if code in REFUSING:
        return "yes"
    return "by policy" if RULES[code].severity is Severity.ERROR else "no"


def test_every_finding_has_a_section_of_its_own() -> None:
    """What it means, what postgres would have said, and what to do, under the code itself."""
    parts = re.split(r"^## (\S+)\n", text("findings.md"), flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))

    assert list(sections) == [str(code) for code in RULES]
    for code, rule in RULES.items():
        section = sections[code]
        severity = f"{rule.severity}; the start is refused" if code in REFUSING else rule.severity
        assert f"**{rule.title}** ({severity}" in section, code
        assert "Postgres" in section or code == Code.REHEARSAL, code
        assert "What to do: " in section, code


def test_every_command_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """What --help lists is what the table lists."""
    assert cli.main(["--help"]) == 0
    commands = set(re.findall(r"^    (\w+)\s", capsys.readouterr().out, re.MULTILINE))

    assert first_codes(rows(README, "## Commands")) == commands


def test_every_check_of_the_probes_is_described() -> None:
    """The names that ?exclude= takes."""
    assert first_codes(rows("probes.md", "## Checks")) == {str(name) for name in CheckName}


def test_every_metric_is_described_and_no_other() -> None:
    """Names of metrics are promises to dashboards."""
    postgres = PostgresFacts(
        up=True,
        in_recovery=False,
        start_time_seconds=0,
        timeline=1,
        connections=0,
        connections_limit=0,
        replay_lag_bytes=0,
        since_checkpoint_bytes=0,
    )
    facts = MetricFacts(
        version="0", phase=Phase.RUNNING, postgres=postgres, inventory_age_seconds=0
    )
    exposition, _ = render(facts, Measurements(), "")
    names = set(re.findall(r"^# TYPE (\S+)", exposition.decode(), re.MULTILINE))

    assert first_codes(rows("probes.md", "## Metrics")) == names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_no_link_leads_nowhere(page: Path) -> None:
    """Links to files of the checkout lead to files."""
    prose = _FENCE.sub("", text(page))
    links = _LINK.findall(_INLINE.sub("", prose))
    targets = [target for target, _ in links if "://" not in target]

    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_no_target_of_make_is_invented(page: Path) -> None:
    """What a page tells people to make can be made."""
    makefile = text(CHECKOUT / "Makefile")
    known = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    shell = "\n".join(blocks(page, "sh"))
    inline = "\n".join(re.findall(r"`(make [^`]+)`", text(page)))
    named = set(re.findall(r"^make ([a-z0-9-]+)", f"{shell}\n{inline}", re.MULTILINE))

    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_example_of_settings_loads(page: Path) -> None:
    """YAML that is no Kubernetes object is a settings file without a problem."""
    examples = [body for body in blocks(page, "yaml") if "apiVersion:" not in body]

    for example in examples:
        load(SettingsText(file_name=page.name, file_text=example), CHECKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_test_that_is_named_as_a_proof_exists(page: Path) -> None:
    """A claim with a proof keeps its proof."""
    missing = [
        f"{file}::{name}"
        for file, name in _TEST.findall(text(page))
        if not (CHECKOUT / file).exists() or f"def {name}(" not in text(CHECKOUT / file)
    ]

    assert missing == []


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_every_decision_says_what_would_change_it(page: Path) -> None:
    """The four parts, in their order."""
    headings = re.findall(r"^## (.*)$", text(page), re.MULTILINE)

    assert headings == ["Context", "Decision", "Consequences", "What would make us change it"]


def coded(table: list[list[str]]) -> list[str]:
    """Return what the first cells have as code, where a cell may have several."""
    return [name for cells in table for name in re.findall(r"`([^`]+)`", cells[0])]


def test_the_guide_treats_every_phase_and_every_problem() -> None:
    """The author of a script looks up what to do, and finds each once."""
    phases = coded(rows("operator-guide.md", "## Phases"))
    problems = coded(rows("operator-guide.md", "## Problems"))

    assert sorted(phases) == sorted(str(phase) for phase in Phase)
    assert sorted(problems) == sorted(str(code) for code in STATUSES)


def test_the_guide_names_the_error_that_the_client_raises() -> None:
    """For each code, by its status."""
    for cells in rows("operator-guide.md", "## Problems"):
        for code in coded([cells]):
            problem = problem_of(RequestCode.MALFORMED, "").model_copy(
                update={"code": code, "status": {str(k): v for k, v in STATUSES.items()}[code]}
            )
            raised = error_of(problem.status, problem.model_dump_json().encode(), "")
            assert cells[1] == f"`{type(raised).__name__}`", code


def pods(page: str) -> Iterator[dict[str, Any]]:
    """Yield the specification of each pod in the manifests of a page."""
    for body in blocks(page, "yaml"):
        for each in yaml.safe_load_all(body) if "apiVersion:" in body else ():
            if "spec" in each:
                yield each["spec"].get("template", each)["spec"]


def probes_of(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the probes and the grace period of a pod."""
    (container,) = pod["containers"]
    return {name: each for name, each in container.items() if name.endswith("Probe")} | {
        "grace": pod["terminationGracePeriodSeconds"]
    }


def test_each_number_of_a_probe_has_its_reason() -> None:
    """Path, period, timeout and threshold of all three, and the grace period."""
    (pod,) = pods("operator-guide.md")
    found = probes_of(pod)
    reasons = " ".join(cells[0] for cells in rows("operator-guide.md", "## The kubelet's probes"))

    for name in ("startup", "liveness", "readiness"):
        numbers = dict(found[f"{name}Probe"])
        path = numbers.pop("httpGet")["path"]
        assert path in {route.path for route in HEALTH_ROUTES}
        assert set(numbers) == {"periodSeconds", "timeoutSeconds", "failureThreshold"}
        for number, value in numbers.items():
            assert f"{name}, `{number}: {value}`" in reasons
    assert f"`terminationGracePeriodSeconds: {found['grace']}`" in reasons


def test_the_probes_leave_the_manager_the_time_that_it_may_need() -> None:
    """A stop of the default length is within the grace period; a silent loop is not killed."""
    (pod,) = pods("operator-guide.md")
    found = probes_of(pod)
    live, ready, shutdown = found["livenessProbe"], found["readinessProbe"], Settings().shutdown
    stop = shutdown.smart_seconds + shutdown.fast_seconds + shutdown.immediate_seconds

    assert found["grace"] >= stop + 10
    assert live["periodSeconds"] * live["failureThreshold"] > HEARTBEAT_LIMIT_SECONDS
    assert ready["periodSeconds"] >= Settings().health.period_seconds
