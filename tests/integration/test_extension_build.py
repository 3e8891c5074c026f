"""What ``extension build`` makes with the host's apt and dpkg, on a base that is made up."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.build_site import NEEDS_APT, SECONDS, THING, Site, contents
from tests.support.package_repository import MADE

pytestmark = NEEDS_APT


def test_a_package_becomes_a_volume_with_what_the_base_lacks(site: Site) -> None:
    """Own files, libraries of libraries, one that is opened by name, licences; nothing else."""
    summary = site.built(f"--package={THING}")

    assert contents(site.results / "thing") == {
        "bin/thingctl": "",
        "lib/thing.so": "",
        "licenses/libdeep3/copyright": "",
        "licenses/libfar1/copyright": "",
        "licenses/libopened2/copyright": "",
        f"licenses/{THING}/copyright": "",
        "sbom.spdx.json": "",
        "share/extension/thing--0.8--1.0.sql": "thing--0.9--1.0.sql",
        "share/extension/thing--0.9--1.0.sql": "",
        "share/extension/thing--1.0.sql": "",
        "share/extension/thing.control": "",
        "share/instance-manager/extension.json": "",
        "system/libdeep.so.3": "",
        "system/libfar.so.1": "libfar.so.1.2.3",
        "system/libfar.so.1.2.3": "",
        "system/libopened.so.2": "",
        **{
            f"var/lib/dpkg/status.d/{name}{suffix}": ""
            for name in ("libdeep3", "libfar1", "libopened2", THING)
            for suffix in ("", ".md5sums")
        },
    }
    reasons = {each["name"]: (each["needed_by"], each["opened"]) for each in summary["libraries"]}
    assert reasons == {
        "libfar.so.1": ("lib/thing.so", False),
        "libdeep.so.3": ("system/libfar.so.1.2.3", False),
        "libopened.so.2": ("lib/thing.so", True),
    }
    assert summary["requires"] == ["other"]
    left = [each["what"] for each in summary["left_out"]]
    assert {"postgresql-18-other", "headers", "bitcode, which no volume can offer"} <= set(left)
    assert [each for each in summary["findings"] if each["severity"] == "error"] == []


def test_what_a_script_loads_is_found_in_a_volume(site: Site) -> None:
    """LOAD with $libdir never looks into volumes, so it is taken out; in quoted text too."""
    site.built(f"--package={THING}")

    script = site.results / "thing/share/extension/thing--0.9--1.0.sql"
    assert script.read_text() == "LOAD 'thing';\nSELECT 'LOAD ''thing''';\n"


def test_the_same_inputs_give_the_same_bytes(site: Site, tmp_path: Path) -> None:
    """Whoever builds: other umask, directory, zone, locale, day, times of files."""
    digests = set[str]()
    for number, (umask, zone) in enumerate(((0o022, "UTC"), (0o077, "Asia/Tokyo"))):
        directory = tmp_path / f"elsewhere-{number}"
        directory.mkdir()
        site.cache = directory / "cache"
        os.utime(site.repository.place / "Packages", (number + 1, number + 1))
        output = f"oci-archive:{site.results / str(number)}"
        given = (f"--package={THING}", "--name=thing", f"--output={output}", "--format=json")
        # Years apart where the clock can be made to be.
        clock = ("faketime", f"20{30 + number}-02-03") if shutil.which("faketime") else ()
        result = subprocess.run(
            [*clock, *site.command(*given)],
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=directory,
            umask=umask,
            env={
                **os.environ,
                "TZ": zone,
                "LC_ALL": "C.UTF-8" if number else "C",
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
        )
        assert result.returncode == 0, result.stderr
        digests.add(json.loads(result.stdout)["digest"])

    assert len(digests) == 1
    assert (site.results / "0").read_bytes() == (site.results / "1").read_bytes()


def test_an_image_layout_is_whole_and_says_what_it_is(site: Site) -> None:
    """Digests are those of the blobs; files belong to root and are as old as the extension."""
    layout = site.results / "layout"
    result = site.run(f"--package={THING}", "--name=thing", f"--output={layout}")
    assert result.returncode == 0, result.stderr

    def blob(descriptor: dict[str, str]) -> Path:
        algorithm, _, name = descriptor["digest"].partition(":")
        path = layout / "blobs" / algorithm / name
        assert str(path.stat().st_size) == str(descriptor["size"])
        checked = subprocess.run(["sha256sum", str(path)], capture_output=True, check=True)
        assert checked.stdout.decode().split()[0] == name
        return path

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]).read_text())
    config = json.loads(blob(manifest["config"]).read_text())
    with tarfile.open(blob(manifest["layers"][0])) as layer:
        members = {member.name: member for member in layer}

    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert config["config"]["Labels"]["io.cloudnativepg.image.sql.version"] == "1.0"
    assert {(each.uid, each.gid, each.mtime) for each in members.values()} == {(0, 0, MADE)}
    assert members["bin/thingctl"].mode == 0o755
    assert members["lib/thing.so"].mode == 0o644
    assert members["lib"].isdir()


def test_the_time_of_an_image_can_be_given(site: Site) -> None:
    """SOURCE_DATE_EPOCH, as in other tools."""
    site.built(f"--package={THING}", env={**os.environ, "SOURCE_DATE_EPOCH": "86400"})

    document = json.loads((site.results / "thing/sbom.spdx.json").read_text())
    assert document["creationInfo"]["created"] == "1970-01-02T00:00:00Z"


def test_scanners_find_the_packages(site: Site) -> None:
    """Each package has its stanza, its sums by the paths of the volume, and its place in SPDX."""
    site.built(f"--package={THING}")
    volume = site.results / "thing"

    stanza = (volume / "var/lib/dpkg/status.d/libdeep3").read_text()
    sums = (volume / "var/lib/dpkg/status.d/libdeep3.md5sums").read_text()
    document = json.loads((volume / "sbom.spdx.json").read_text())

    assert stanza.startswith("Package: libdeep3\nStatus: install ok installed\nVersion: 1.0-1\n")
    assert [line.split()[1] for line in sums.splitlines()] == [
        "licenses/libdeep3/copyright",
        "system/libdeep.so.3",
    ]
    checked = subprocess.run(
        ["md5sum", "--check", "-"], input=sums, text=True, cwd=volume, check=False
    )
    assert checked.returncode == 0
    addresses = {
        each["name"]: each["externalRefs"][0]["referenceLocator"]
        for each in document["packages"]
        if "externalRefs" in each
    }
    assert addresses["libdeep3"].startswith("pkg:deb/debian/libdeep3@1.0-1?arch=")
    library = next(
        each for each in document["files"] if each["fileName"] == "./system/libdeep.so.3"
    )
    assert f"build id {(b'd' * 20).hex()}" in library["comment"]


def test_another_extension_can_be_held_too(site: Site) -> None:
    """With --bundle it is a part of the volume, and nothing is required."""
    summary = site.built(f"--package={THING}", "--bundle=postgresql-18-other")

    assert (site.results / "thing/lib/other.so").is_file()
    assert summary["requires"] == []
    assert summary["extensions"] == ["other 2", "thing 1.0"]


def test_several_packages_make_one_image(site: Site) -> None:
    """A flavour, which its own option may name: whatever is asked for is in it."""
    packages = f"--package={THING}", "--package=postgresql-18-other"
    summary = site.built(*packages, "--flavour=mixed", name="both")

    assert summary["extensions"] == ["other 2", "thing 1.0"]
    assert summary["name"] == "mixed"


def test_libraries_alone_make_an_image(site: Site) -> None:
    """What is asked for and no extension is taken whole, with what it needs."""
    site.built("--package=libfar1", name="far")

    assert {path for path in contents(site.results / "far") if path.startswith("system/")} == {
        "system/libfar.so.1",
        "system/libfar.so.1.2.3",
        "system/libdeep.so.3",
    }


def test_files_of_the_extension_can_be_left_out(site: Site) -> None:
    """And with them all that only they need."""
    site.built(f"--package={THING}", "--exclude=lib/*.so")

    assert not any(
        path.startswith(("lib/", "system/")) for path in contents(site.results / "thing")
    )


def test_people_read_what_came_of_it(site: Site) -> None:
    """Sizes, libraries and why, what was left out; progress on a terminal only."""
    result = site.run(
        f"--package={THING}", "--name=thing", f"--output=dir:{site.results / 'thing'}"
    )

    assert result.returncode == 0
    assert result.stderr == ""
    assert "needed by system/libfar.so.1.2.3" in result.stdout
    assert "postgresql-18-other" in result.stdout
    assert stat.S_IMODE((site.results / "thing").stat().st_mode) == 0o755


@pytest.mark.skipif(
    sys.version_info < (3, 14) and not shutil.which("zstd"), reason="there is no zstd here"
)
def test_a_layer_can_be_compressed_by_zstd(site: Site) -> None:
    """The same files, said so in the manifest, and the same bytes again."""
    digests = [
        json.loads(
            site.run(
                *(f"--package={THING}", "--name=thing", "--format=json"),
                *(f"--output={site.results / name}", f"--compression={name.partition('-')[0]}"),
            ).stdout
        )["digest"]
        for name in ("zstd-1", "zstd-2", "gzip")
    ]

    def described(name: str, digest: str) -> Any:
        return json.loads((site.results / name / "blobs/sha256" / digest[7:]).read_text())

    packed, usual = described("zstd-1", digests[0]), described("gzip", digests[2])
    assert digests[0] == digests[1] != digests[2]
    assert packed["layers"][0]["mediaType"].endswith("tar+zstd")
    configs = (
        described("zstd-1", packed["config"]["digest"]),
        described("gzip", usual["config"]["digest"]),
    )
    assert configs[0]["rootfs"] == configs[1]["rootfs"]
    assert site.left() == ["gzip", "zstd-1", "zstd-2"]
