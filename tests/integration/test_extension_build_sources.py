"""What ``extension build`` makes a volume from: trees, bases, archives, and volumes beside."""

from __future__ import annotations

import hashlib
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from instance_manager.extensions.metadata import parse
from tests.support.build_site import NEEDS_APT, SCRIPT, THING, Site, contents
from tests.support.made_objects import HOST, NUMBERS, interpreter, make_object
from tests.support.package_repository import (
    EXTENSIONS,
    LIBRARIES,
    SERVER_LIBRARIES,
    make_base,
    put,
)
from tests.unit.extensions.conftest import build_elf, magic_bytes

pytestmark = NEEDS_APT


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
