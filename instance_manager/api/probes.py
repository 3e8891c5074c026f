"""Probes, in the form of the Kubernetes API server's own: ``/livez``, ``/readyz``, ``/startupz``.

The status code is for machines, the body for people. Failures are always told in full, check by
check; why a check failed is told only where callers have proven who they are. Source: the
Kubernetes documentation, "API health endpoints".
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from aiohttp import web

from instance_manager.api import documents
from instance_manager.api.models import CheckReport, ProbeReport
from instance_manager.api.problems import RequestCode, RequestError
from instance_manager.health.verdicts import PROBES, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiohttp.typedefs import Handler

    from instance_manager.api.instance import Instance
    from instance_manager.health.verdicts import Check

WITHHOLD_REASONS: Final[web.AppKey[bool]] = web.AppKey("withhold_reasons")
"""Whether an application keeps the reasons of failures to itself."""

_UNAVAILABLE: Final = 503


def probe(name: str, shown_as: str = "") -> Handler:
    """Return the handler of the probe *name*, which calls itself *shown_as* in its answers."""
    judge = PROBES[name]

    async def handle(request: web.Request) -> web.Response:
        began = perf_counter()
        instance = documents.instance_of(request)
        try:
            return answer(request, instance)
        finally:
            instance.measurements.probe_handlers.observe(name, perf_counter() - began)

    def answer(request: web.Request, instance: Instance) -> web.Response:
        verdict = _select(judge(instance.facts()), request)
        excluded = frozenset(request.query.getall("exclude", []))
        failed = any(not check.ok and check.name not in excluded for check in verdict.checks)
        instance.measurements.count_probe(name, not failed)
        status = _UNAVAILABLE if failed else 200
        withhold = request.app[WITHHOLD_REASONS]
        if accepts_json(request.headers.get("Accept", "")):
            return documents.answer(report(verdict, excluded, withhold=withhold), status=status)
        verbose = failed or "verbose" in request.query
        text = describe(shown_as or name, verdict, excluded, withhold=withhold)
        return web.Response(text=text if verbose else "ok\n", status=status)

    return handle


def describe(name: str, verdict: Verdict, excluded: Collection[str], *, withhold: bool) -> str:
    """Return the verbose text: a line for each check, then the outcome."""
    lines = [_line(check, excluded, withhold=withhold) for check in verdict.checks]
    unknown = sorted(set(excluded) - {check.name for check in verdict.checks})
    if unknown:
        names = ", ".join(f'"{one}"' for one in unknown)
        # As the API server of Kubernetes warns: a slip in a name would leave a check in the
        # verdict.
        lines.append(f"warn: some health checks cannot be excluded: no matches for {names}")
    failed = any(not check.ok and check.name not in excluded for check in verdict.checks)
    lines.append(f"{name} check {'failed' if failed else 'passed'}")
    return "\n".join(lines) + "\n"


def report(verdict: Verdict, excluded: Collection[str], *, withhold: bool) -> ProbeReport:
    """Return the same as a document."""
    checks = tuple(_report_check(check, excluded, withhold=withhold) for check in verdict.checks)
    failed = any(check.status == "failed" for check in checks)
    return ProbeReport(status="failed" if failed else "ok", checks=checks)


def accepts_json(header: str) -> bool:
    """Return whether an ``Accept`` header names JSON; a wildcard does not, curl sends one."""
    kinds = (part.partition(";")[0].strip().lower() for part in header.split(","))
    return "application/json" in kinds


def _select(verdict: Verdict, request: web.Request) -> Verdict:
    """Return the verdict on the one check that the path names, or on all where it names none."""
    wanted = request.match_info.get("check")
    if wanted is None:
        return verdict
    chosen = tuple(check for check in verdict.checks if check.name == wanted)
    if not chosen:
        known = ", ".join(check.name for check in verdict.checks)
        raise RequestError(
            RequestCode.NOT_FOUND, f"there is no check {wanted!r}", hint=f"the checks are: {known}"
        )
    return Verdict(chosen)


def _line(check: Check, excluded: Collection[str], *, withhold: bool) -> str:
    if check.name in excluded:
        # In the words of the API server of Kubernetes, which tools know.
        return f"[+]{check.name} excluded: ok"
    if check.ok:
        return f"[+]{check.name} ok"
    return f"[-]{check.name} failed: {'reason withheld' if withhold else check.reason}"


def _report_check(check: Check, excluded: Collection[str], *, withhold: bool) -> CheckReport:
    age = check.observed_seconds_ago
    return CheckReport(
        name=check.name,
        status="excluded" if check.name in excluded else "ok" if check.ok else "failed",
        observed_seconds_ago=None if age is None else round(age, 3),
        message=None if withhold or check.ok else check.reason,
    )
