"""The metadata that ``extension build`` writes, and the options for them."""

from __future__ import annotations

import json

from instance_manager.extensions.metadata import Metadata, parse
from instance_manager.postgres.embedded import Demonstration
from tests.support.build_site import NEEDS_APT, SCRIPT, THING, Site
from tests.support.package_repository import EXTENSIONS, SERVER_LIBRARIES

pytestmark = NEEDS_APT


def test_the_metadata_is_what_the_manager_reads(site: Site) -> None:
    """Without a problem, and with what was asked for."""
    # The made library is no module that could be preloaded.
    site.built(f"--package={THING}", "--preload=thing", "--force")

    file = site.results / "thing/share/instance-manager/extension.json"
    parsed = parse(file.read_bytes())

    assert parsed.problems == ()
    assert parsed.metadata.requires == ("other",)
    assert parsed.metadata.shared_preload_libraries == ("thing",)
    assert dict(parsed.metadata.provenance)["version"] == "1.0-1"


def test_the_metadata_hold_what_a_smoke_test_is_to_run(site: Site) -> None:
    """And the base by the name that it is given; a statement of two lines is refused."""
    site.built(
        f"--package={THING}", "--smoke-test=SELECT f()", "--base-name=example/base:1", "--force"
    )
    described = site.results / "thing/share/instance-manager/extension.json"

    metadata = parse(described.read_bytes()).metadata
    assert metadata.smoke_test == ("SELECT f()",)
    assert dict(metadata.provenance)["base"] == "example/base:1"
    refused = site.run(f"--package={THING}", "--output=dir:x", "--smoke-test=SELECT\n1")
    assert refused.returncode == 2


def test_every_field_of_the_metadata_has_an_option(site: Site) -> None:
    """The manager reads each as it was given, and labels tell the source."""
    layout = site.results / "layout"
    given = (
        *(
            "--force",
            "--preload=thing",
            "--parameter=thing.size=1 MB",
            "--preload-after=thing=first,second",
        ),
        *("--env=THING_HOME=${image_root}/share", "--requires=more", "--path=bin_path=bin"),
        *("--path=ld_library_path=system", "--path=ld_library_path=lib", "--smoke-test=SELECT 1"),
        *("--source=https://example.org/thing", "--revision=0123abc"),
        *("--path=extension_control_path=share", "--path=dynamic_library_path=lib"),
    )
    summary = site.built(f"--package={THING}", *given)
    site.run(f"--package={THING}", *given, "--name=thing", f"--output={layout}").check_returncode()

    described = site.results / "thing/share/instance-manager/extension.json"
    parsed = parse(described.read_bytes())
    metadata = parsed.metadata
    labels = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    manifest = (layout / "blobs/sha256" / labels.removeprefix("sha256:")).read_text()
    assert parsed.problems == ()
    assert metadata._replace(provenance=()) == Metadata(
        extension_control_path=("share",),
        dynamic_library_path=("lib",),
        ld_library_path=("system", "lib"),
        bin_path=("bin",),
        env=(("THING_HOME", "${image_root}/share"),),
        shared_preload_libraries=("thing",),
        postgresql_parameters=(("thing.size", "1 MB"),),
        requires=("more", "other"),
        preload_after=(("thing", ("first", "second")),),
        smoke_test=("SELECT 1",),
    )
    assert summary["requires"] == ["more", "other"]
    assert dict(metadata.provenance).keys() == {
        "name",
        "version",
        "source",
        "revision",
        "created",
        "base",
    }
    assert '"org.opencontainers.image.source":"https://example.org/thing"' in manifest
    assert '"org.opencontainers.image.revision":"0123abc"' in manifest


def test_a_library_that_wants_to_be_preloaded_names_the_option(
    site: Site, server: Demonstration
) -> None:
    """An author records it; what a user would set is of no help to who builds."""
    module = server.bin_directory.parent / "lib/pg_stat_statements.so"
    site.repository.add(
        "postgresql-18-early",
        {
            f"{EXTENSIONS}/early.control": "default_version = '1'\n",
            f"{EXTENSIONS}/early--1.sql": SCRIPT,
            f"{SERVER_LIBRARIES}/early.so": module.read_bytes(),
        },
    )
    # The base that is made up has none of the functions that a real module calls.
    given = ("--package=postgresql-18-early", "--force")
    summary = site.built(*given, name="early")
    recorded = site.built(*given, "--preload=early", name="recorded")

    (found,) = [each for each in summary["findings"] if each["code"] == "EXT050"]
    assert "build it with --preload early" in found["hint"]
    assert "EXT050" not in {each["code"] for each in recorded["findings"]}


def test_a_library_to_be_preloaded_must_be_there(site: Site) -> None:
    """What the metadata say is judged with the rest, before anything is written."""
    refused = site.run(
        f"--package={THING}", "--name=thing", f"--output={site.results / 'x'}", "--preload=nowhere"
    )

    assert (refused.returncode, site.left()) == (3, [])
    assert 'asks for library "nowhere"' in refused.stderr
