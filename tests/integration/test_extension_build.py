"""``extension build`` with the host's apt and dpkg, on a base that is made up."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from instance_manager.extensions.metadata import Metadata, parse
from instance_manager.postgres.embedded import Demonstration
from tests.support.made_objects import HOST, NUMBERS, interpreter, make_object
from tests.support.manager import until
from tests.support.package_repository import (
    EXTENSIONS,
    LIBRARIES,
    MADE,
    SERVER_LIBRARIES,
    Repository,
    make_base,
    put,
)
from tests.support.volumes import tmpfs
from tests.unit.extensions.conftest import build_elf, magic_bytes

SECONDS: Final = 90
THING: Final = "postgresql-18-thing-1"
SCRIPT: Final = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"
LOADING: Final = "LOAD '$libdir/thing';\nSELECT 'LOAD ''$libdir/thing''';\n"
CONTROL: Final = "default_version = '1.0'\nrequires = 'other, plpgsql'\n"

pytestmark = pytest.mark.skipif(
    not shutil.which("apt-get") or not shutil.which("dpkg-deb"), reason="there is no apt here"
)


@dataclass
class Site:
    """A base, a repository, and a directory for results."""

    base: Path
    repository: Repository
    results: Path
    cache: Path

    def command(self, *arguments: str) -> list[str]:
        program = [sys.executable, "-m", "instance_manager", "extension", "build"]
        given = [f"--base={self.base}", f"--cache={self.cache}"]
        return [*program, *given, *arguments]

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Build, and return how it ended."""
        return subprocess.run(
            self.command(*arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            **more,
        )

    def built(self, *arguments: str, name: str = "thing", **more: Any) -> Any:
        """Build a volume as a directory that must succeed; return the summary."""
        output = f"--output=dir:{self.results / name}"
        given = (f"--name={name}", output, "--format=json", *arguments)
        result = self.run(*given, **more)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def left(self) -> list[str]:
        """Return the names in the directory for results."""
        return sorted(os.listdir(self.results))  # noqa: PTH208 - names are what is wanted


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a base and a repository with an extension, its libraries, and another extension."""
    repository = Repository(tmp_path / "repository")
    far = make_object(soname="libfar.so.1", needed=("libdeep.so.3", "libc.so.6"), exports=("far",))
    deep = make_object(soname="libdeep.so.3", exports=("deep",), build_id=b"d" * 20)
    module = (
        make_object(
            needed=("libfar.so.1", "libhad.so.1", "libc.so.6"), wants=("dlopen", "far", "palloc")
        )
        + b"\0libopened.so.2\0libnowhere.so.9\0"
    )
    repository.add("libdeep3", {f"{LIBRARIES}/libdeep.so.3": deep})
    repository.add(
        "libfar1",
        {
            f"{LIBRARIES}/libfar.so.1": Path("libfar.so.1.2.3"),
            f"{LIBRARIES}/libfar.so.1.2.3": far,
            "usr/share/far/unused": "data",
        },
        depends=("libdeep3",),
    )
    opened = make_object(soname="libopened.so.2", exports=("opened",))
    repository.add("libopened2", {f"{LIBRARIES}/libopened.so.2": opened})
    repository.add(
        "postgresql-18-other",
        {
            f"{EXTENSIONS}/other.control": "default_version = '2'\n",
            f"{EXTENSIONS}/other--2.sql": SCRIPT,
            f"{SERVER_LIBRARIES}/other.so": make_object(needed=("libc.so.6",)),
        },
    )
    link = f"/{EXTENSIONS}/thing.control postgresql-18-thing /{EXTENSIONS}/thing-1.control"
    repository.add(
        THING,
        {
            f"{EXTENSIONS}/thing-1.control": CONTROL,
            f"{EXTENSIONS}/thing--1.0.sql": SCRIPT,
            f"{EXTENSIONS}/thing--0.9--1.0.sql": LOADING,
            f"{EXTENSIONS}/thing--0.8--1.0.sql": Path("thing--0.9--1.0.sql"),
            f"{SERVER_LIBRARIES}/thing.so": module,
            f"{SERVER_LIBRARIES}/bitcode/thing.index.bc": b"BC",
            "usr/lib/postgresql/18/bin/thingctl": "#!/bin/sh\n",
            "usr/include/postgresql/18/server/thing.h": "int thing;",
        },
        depends=("libfar1", "libopened2", "postgresql-18-other"),
        postinst=f"update-alternatives \\\n  --install {link} 10\n",
    )
    results = tmp_path / "results"
    results.mkdir()
    return Site(
        make_base(tmp_path / "base", repository.place), repository, results, tmp_path / "cache"
    )


def contents(volume: Path) -> dict[str, str]:
    """Return the paths of a volume, and where its links lead."""
    return {
        str(each.relative_to(volume)): os.readlink(each) if each.is_symlink() else ""  # noqa: PTH115
        for each in volume.rglob("*")
        if each.is_symlink() or not each.is_dir()
    }


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


def test_an_installed_tree_becomes_a_volume(site: Site, tmp_path: Path) -> None:
    """Under whatever prefix it was installed; libraries come from packages."""
    module = make_object(needed=("libfar.so.1", "libc.so.6"))
    put(
        tmp_path / "installed",
        {
            "usr/local/pgsql/lib/mine.so": module,
            "usr/local/pgsql/lib/bitcode/mine/mine.bc": b"BC",
            "usr/local/pgsql/share/extension/mine.control": "default_version = '3'\n",
            "usr/local/pgsql/share/extension/mine--3.sql": SCRIPT,
            "LICENSE": "do what you like\n",
        },
    )
    directory = f"--from-directory={tmp_path / 'installed'}"
    refused = site.run(directory, "--name=mine", f"--output={site.results / 'mine'}")

    summary = site.built(directory, "--package=libfar1", name="mine")

    assert refused.returncode == 3
    assert "lib/mine.so needs libfar.so.1" in refused.stderr
    assert summary["version"] == "3"
    assert {
        "lib/mine.so",
        "share/extension/mine--3.sql",
        "system/libfar.so.1",
        "licenses/LICENSE",
    } <= (contents(site.results / "mine").keys())
    assert "lib/mine.bc" not in contents(site.results / "mine")


@pytest.mark.parametrize("module", ["hello", "hello-0.0.0"], ids=["plain", "versioned"])
def test_what_cargo_pgrx_package_writes_becomes_a_volume(
    site: Site, tmp_path: Path, module: str
) -> None:
    """Nothing is left out and nothing brought; the module has a name that is not its SONAME."""
    tree, loader = tmp_path / "target/release/hello-pg18", Path(interpreter()).name
    pathname = "module_pathname = 'hello'\n" if module == "hello" else ""
    put(site.base, {f"{LIBRARIES}/libgcc_s.so.1": make_object(soname="libgcc_s.so.1")})
    put(
        tree,
        {
            f"{EXTENSIONS}/hello.control": "comment = 'hello:  Created by pgrx'\n"
            f"default_version = '0.0.0'\n{pathname}"
            "relocatable = false\nsuperuser = true\ntrusted = false",
            f"{EXTENSIONS}/hello--0.0.0.sql": "/* <begin connected objects> */\n"
            '-- src/lib.rs:7\n-- hello::hello_hello\nCREATE  FUNCTION "hello_hello"() RETURNS TEXT'
            " /* & '_ str */\nSTRICT\nLANGUAGE c /* Rust */\n"
            f"AS '{'MODULE_PATHNAME' if pathname else f'$libdir/{module}'}',"
            " 'hello_hello_wrapper';\n/* </end connected objects> */\n",
            f"{SERVER_LIBRARIES}/{module}.so": build_elf(
                machine=NUMBERS[HOST],
                style="lea after work" if HOST == "x86_64" else "adrp+add after work",
                magic=magic_bytes(),
                soname="libhello.so",
                needed=("libgcc_s.so.1", "libc.so.6", loader),
                symbols=[b"hello_hello_wrapper", b"pg_finfo_hello_hello_wrapper"],
            ),
        },
    )
    (tree / SERVER_LIBRARIES / f"{module}.so").chmod(0o755)

    summary = site.built(f"--from-directory={tree}", name="hello")

    modes = {
        path: stat.S_IMODE((site.results / "hello" / path).stat().st_mode)
        for path in (f"lib/{module}.so", "share/extension/hello--0.0.0.sql")
    }
    assert (summary["version"], summary["extensions"]) == ("0.0.0", ["hello 0.0.0"])
    assert (summary["left_out"], summary["libraries"], summary["findings"]) == ([], [], [])
    assert set(modes.values()) == {0o644}
    assert "share/extension/hello.control" in contents(site.results / "hello")


def test_an_archive_of_files_is_a_base(site: Site, tmp_path: Path) -> None:
    """What podman export writes; a link in it leads nothing out of it."""
    archive, outside = tmp_path / "base.tar", tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(archive, "w") as files:
        files.add(site.base, ".")
        away = tarfile.TarInfo("usr/lib/away")
        away.type, away.linkname = tarfile.SYMTYPE, str(outside)
        files.addfile(away)
        files.addfile(tarfile.TarInfo("usr/lib/away/written"))
        files.addfile(tarfile.TarInfo("usr/lib/../../../../outside/written"))
    site.base = archive

    site.built(f"--package={THING}")

    assert list(outside.iterdir()) == []
    assert (site.results / "thing/system/libfar.so.1").exists()


def test_a_base_that_is_too_old_is_named(site: Site) -> None:
    """A version that the base's library lacks is found before the image is written."""
    module = make_object(needed=("libhad.so.1",), needs={"libhad.so.1": ("HAD_2",)})
    site.repository.add("postgresql-18-new", {f"{SERVER_LIBRARIES}/new.so": module})

    result = site.run("--package=postgresql-18-new", f"--output={site.results / 'new'}")

    assert result.returncode == 3
    assert "libhad.so.1(HAD_2)" in result.stderr
    assert "older than the package" in result.stderr
    assert site.left() == []


def test_an_image_with_errors_is_written_by_force_only(site: Site) -> None:
    """An error of preflight refuses the image; --force writes it and tells."""
    broken = {f"{EXTENSIONS}/bad.control": "magic = 1\n", f"{EXTENSIONS}/bad--1.sql": SCRIPT}
    site.repository.add("postgresql-18-bad", broken)

    refused = site.run("--package=postgresql-18-bad", f"--output={site.results / 'bad'}")
    left = site.left()
    forced = site.built("--package=postgresql-18-bad", "--force", name="bad")

    assert (refused.returncode, left) == (3, [])
    assert "EXT012" in refused.stderr
    assert [each["code"] for each in forced["findings"] if each["severity"] == "error"] == [
        "EXT012"
    ]


def test_a_link_that_leads_nowhere_is_named(site: Site) -> None:
    """It would break the list of extensions for the whole server."""
    files = {f"{EXTENSIONS}/lost.control": Path("/etc/alternatives/lost.control")}
    site.repository.add("postgresql-18-lost", files)

    result = site.run("--package=postgresql-18-lost", f"--output={site.results / 'lost'}")

    assert result.returncode == 1
    assert f"{EXTENSIONS}/lost.control is a link to etc/alternatives/lost.control" in result.stderr
    assert site.left() == []


def test_an_archive_without_a_signature_is_refused(site: Site, tmp_path: Path) -> None:
    """The base's keys decide whom packages are taken from."""
    site.base = make_base(tmp_path / "strict", site.repository.place, options="")
    packages = (site.repository.place / "Packages").read_bytes()
    entry = f" {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages"
    (site.repository.place / "Release").write_text(f"Suite: trial\nSHA256:\n{entry}\n")

    result = site.run(f"--package={THING}", f"--output={site.results / 'thing'}")

    assert result.returncode == 1
    assert "is not signed" in result.stderr
    assert site.left() == []


def test_a_package_that_is_nowhere_is_named(site: Site) -> None:
    """With the base, and where else it could come from."""
    result = site.run("--package=postgresql-18-none", f"--output={site.results / 'none'}")

    assert result.returncode == 1
    assert "postgresql-18-none" in result.stderr
    assert "--sources host" in result.stderr


def test_files_of_the_extension_can_be_left_out(site: Site) -> None:
    """And with them all that only they need."""
    site.built(f"--package={THING}", "--exclude=lib/*.so")

    assert not any(
        path.startswith(("lib/", "system/")) for path in contents(site.results / "thing")
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(site: Site, number: signal.Signals) -> None:
    """Neither a half result nor the directory that it was made in."""
    command = site.command(f"--package={THING}", f"--output={site.results / 'thing'}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(site.left, "the build has begun")
        process.send_signal(number)
        process.communicate(timeout=SECONDS)

    assert process.returncode == 128 + signal.SIGINT
    assert site.left() == []


def test_what_a_killed_build_leaves_is_removed_by_the_next(site: Site) -> None:
    """It can't tidy up itself, and nobody would find a hidden directory."""
    command = site.command(f"--package={THING}", f"--output={site.results / 'thing'}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: list(site.results.glob(".thing.*/lock")), "the build has begun")
        process.kill()
        process.communicate(timeout=SECONDS)
    assert site.left() != []

    site.built(f"--package={THING}")

    assert site.left() == ["thing"]


def test_a_full_disk_leaves_what_was_there(site: Site, tmp_path: Path) -> None:
    """The result of an earlier build is replaced by a whole one only."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a small file system")
    site.repository.add(
        "postgresql-18-big", {f"{SERVER_LIBRARIES}/big.so": make_object() + os.urandom(1 << 23)}
    )
    with tmpfs(tmp_path / "small", 1 << 22) as small:
        place = tmp_path / "small" / "result"
        first = site.run(f"--package={THING}", "--name=thing", f"--output={place}")
        before = (place / "index.json").read_bytes()
        result = site.run("--package=postgresql-18-big", f"--output={place}", "--overwrite")
        left = [each.name for each in (tmp_path / "small").iterdir() if each.name != "lost+found"]

        assert small is not None
        assert first.returncode == 0, first.stderr
        assert result.returncode == 4, result.stderr
        assert "no space left" in result.stderr
        assert left == ["result"]
        assert (place / "index.json").read_bytes() == before


def replaced(site: Site) -> Path:
    place = site.results / "thing"
    place.mkdir()
    (place / "precious").write_text("data")
    return place


def test_only_results_of_builds_are_replaced(site: Site) -> None:
    """A directory with something else is never taken away."""
    place = replaced(site)

    result = site.run(f"--package={THING}", f"--output={place}", "--overwrite")

    assert result.returncode == 2
    assert (place / "precious").read_text() == "data"


def test_a_result_can_be_replaced(site: Site) -> None:
    """By what is built anew, and only where that is asked for."""
    site.built(f"--package={THING}")
    refused = site.run(
        f"--package={THING}", "--name=thing", f"--output=dir:{site.results / 'thing'}"
    )

    site.built(f"--package={THING}", "--overwrite", "--exclude=bin/*")

    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert not (site.results / "thing/bin").exists()
    assert site.left() == ["thing"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--package=-oDebug=1", "--output=x"), "no name of a package"),
        (("--output=x", "--name=x"), "from nothing"),
        (("--package=p-1", "--output=tar:x"), "--output"),
        (("--package=p-1", "--output=x", "--name=Bad"), "name a volume"),
        (("--package=p-1", "--output=/nowhere/x"), "no directory /nowhere"),
        (("--package=p-1", "--output=x", "--label=nothing"), "KEY=VALUE"),
        (("--package=p-1", "--output=x", "--parameter=nothing"), "NAME=VALUE"),
        (("--package=p-1", "--output=x", "--env=A=1", "--env=A=2"), "given twice"),
        (("--package=p-1", "--output=x", "--preload-after=a"), "LIBRARY=OTHER"),
        (("--package=p-1", "--output=x", "--path=bin_path=../x"), "within the volume"),
        (("--package=p-1", "--output=x", "--path=lib=x"), "fields are"),
        (("--package=p-1", "--output=x", "--revision=a\nb"), "short text"),
        (("--package=p-1", "--output=x", "--parameter=a.b=\n"), "printable"),
        (("--package=p-1", "--output=x", "--base=./gone"), "cannot use base './gone'"),
        (("--package=postgresql-17-p", "--output=x"), "no PostgreSQL 17 in it, but 18"),
        (("--package=postgresql-17-p", "--package=postgresql-18-p", "--output=x"), "one server"),
        (("--package=p-1", "--output=x", "--cache=/proc/x"), "cannot use --cache '/proc/x'"),
        (("--from-directory=.", "--name=x", "--output=x"), "nothing that a volume has"),
    ],
)
def test_what_can_not_be_asked_for_is_told(
    site: Site, arguments: tuple[str, ...], words: str
) -> None:
    """Before anything is fetched, with exit code 2."""
    result = site.run(*arguments, cwd=site.results)

    assert (result.returncode, site.left()) == (2, [])
    assert words in result.stderr


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


def test_what_a_volume_beside_has_is_not_brought(site: Site) -> None:
    """It is required by its name instead, and without it a server would lack the library."""
    libraries = site.built("--package=libfar1", name="far")
    assert {each["name"] for each in libraries["libraries"]} == {"libfar.so.1", "libdeep.so.3"}

    alone = site.built(f"--package={THING}", name="alone")
    summary = site.built(f"--package={THING}", f"--with={site.results / 'far'}")

    brought = [each["name"] for each in summary["libraries"]]
    assert (
        brought
        == ["libopened.so.2"]
        == [
            each["name"]
            for each in alone["libraries"]
            if each["name"] not in {"libfar.so.1", "libdeep.so.3"}
        ]
    )
    assert summary["requires"] == ["far", "other"]
    described = parse(
        (site.results / "thing/share/instance-manager/extension.json").read_bytes()
    ).metadata
    assert described.requires == ("far", "other")


def test_a_volume_beside_may_be_an_image_and_counts_as_it_is(site: Site) -> None:
    """One that lacks what it needs is no use, and a second one of the same name is refused."""
    site.built("--package=libfar1", "--package=libdeep3", name="far")
    layout = site.results / "layout"
    made = site.run("--package=libfar1", "--name=far", f"--output=oci:{layout}")
    assert made.returncode == 0, made.stderr
    assert site.built(f"--package={THING}", f"--with={layout}")["requires"] == ["far", "other"]

    twice = site.run(
        *(f"--package={THING}", "--name=thing", f"--output={site.results / 'x'}"),
        *(f"--with={layout}", f"--with={site.results / 'far'}"),
    )
    assert twice.returncode == 2
    assert "another volume is called 'far' too" in twice.stderr

    shutil.rmtree(site.results / "far")
    (site.results / "far/system").mkdir(parents=True)
    far = make_object(soname="libfar.so.1", needed=("libgone.so.1",), exports=("far",))
    (site.results / "far/system/libfar.so.1").write_bytes(far)
    refused = site.run(
        *(f"--package={THING}", "--name=thing", f"--output={site.results / 'x'}"),
        f"--with={site.results / 'far'}",
    )
    assert refused.returncode == 3
    assert "needs libgone.so.1" in refused.stderr


def test_a_volume_beside_that_is_nowhere_is_told_before_packages_are_fetched(site: Site) -> None:
    """It costs no download, and the sentence speaks of no test."""
    refused = site.run("--package=postgresql-18-nothing", "--output=x", "--with=./nowhere")

    assert refused.returncode == 2
    assert "cannot use './nowhere': no directory or file is there" in refused.stderr


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
