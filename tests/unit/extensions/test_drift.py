from __future__ import annotations

from instance_manager.extensions.drift import NOTHING, with_needed
from instance_manager.extensions.findings import Code, finding
from instance_manager.extensions.models import ExtensionsReport

COMPOSED = NOTHING.model_copy(update={"dynamic_library_path": "$libdir:/extensions/b/lib"})
REPORT = ExtensionsReport(
    root="/extensions", scan_seconds=0, volumes=(), findings=(), composed=COMPOSED
)
RUNNING = "$libdir:/extensions/a/lib:/extensions/b/lib"


def test_a_server_keeps_the_directories_of_libraries_that_databases_need() -> None:
    """After what was found, so that nothing is found there instead; all else is as composed."""
    vanished = finding(Code.VANISHED, "vector", 'database "app" uses it')
    report = REPORT.model_copy(update={"findings": (vanished,)})
    kept = with_needed(report, RUNNING).composed

    assert kept.dynamic_library_path == "$libdir:/extensions/b/lib:/extensions/a/lib"
    assert kept == COMPOSED.model_copy(update={"dynamic_library_path": kept.dynamic_library_path})
    assert with_needed(report, "").composed == COMPOSED


def test_what_nobody_needs_is_not_kept() -> None:
    """A list of libraries that anybody may set is no need."""
    session = finding(Code.SESSION_LIBRARY, "local_preload_libraries", "sessions load it")

    assert with_needed(REPORT, RUNNING) == REPORT
    assert with_needed(REPORT.model_copy(update={"findings": (session,)}), RUNNING).composed == (
        COMPOSED
    )
