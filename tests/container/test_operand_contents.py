"""What is in the operand image: listed, described for scanners, and nothing that should not be."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest

from tests.container.conftest import CHECKOUT, MAJOR, Images, Podman

PAGE = CHECKOUT / "docs/operand-image.md"
BILL = "/usr/share/sbom/operand.spdx.json"
WRITABLE = {
    *("/tmp", "/var/tmp", "/run", "/run/lock"),
    *("/var/lib/postgresql", "/var/lib/postgresql/data"),
}


@cache
def root(podman: Podman, image: str, script: str) -> str:
    """Return what a shell of root's prints in an image, once."""
    options = (
        "--rm",
        "--network=none",
        "--user=0",
        "--ulimit=nofile=20000",
        "--ulimit=nproc=9999",
    )
    run = podman("run", *options, "--entrypoint=sh", image, "-euc", script)
    return run.checked().out.strip()


@pytest.fixture
def bill(podman: Podman, images: Images) -> Any:
    """Return the list of parts that is in the image."""
    return json.loads(root(podman, images.operand, f"cat {BILL}"))


def listed() -> set[str]:
    """Return the packages in the tables of the page."""
    rows = re.findall(r"^\| ([a-z][^|]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        entry.split()[0]
        for row in rows
        for entry in row.split(", ")
        if re.fullmatch(r"[a-z0-9.+-]+ \d+\.\d", entry)
    }


@pytest.mark.skipif(MAJOR != "18", reason="the page lists the packages for PostgreSQL 18")
def test_the_page_lists_every_package_and_no_other(podman: Podman, images: Images) -> None:
    """What is in the image has a reason there."""
    names = root(podman, images.operand, "dpkg-query --show --showformat '${Package}\\n'")

    assert set(names.split()) == listed()


def test_the_list_of_parts_has_each_package_of_dpkg_and_of_python(
    podman: Podman, images: Images, bill: Any
) -> None:
    """By address, in the version that is installed."""
    query = "dpkg-query --show --showformat '${Package} ${Version}\\n'"
    debian = {tuple(line.split()) for line in root(podman, images.operand, query).splitlines()}
    program = (
        "/opt/instance-manager/bin/python -I -c 'from importlib import metadata as m\n"
        'for d in m.distributions(): print(d.name.lower().replace("_", "-"), d.version)\''
    )
    python = {tuple(line.split()) for line in root(podman, images.operand, program).splitlines()}
    packages = [each for each in bill["packages"] if "externalRefs" in each]
    kinds = {"deb": debian, "pypi": python}

    for kind, installed in kinds.items():
        found = {
            (each["name"], each["versionInfo"])
            for each in packages
            if each["externalRefs"][0]["referenceLocator"].startswith(f"pkg:{kind}/")
        }
        assert found == installed


def test_the_list_of_parts_has_sums(podman: Podman, images: Images, bill: Any) -> None:
    """Of every archive of Python's, of the server's package, and of what belongs to none."""
    packages = {each["name"]: each for each in bill["packages"]}
    files = {f"/{each['fileName'].removeprefix('./')}": each for each in bill["files"]}
    sums = {
        path: {each["algorithm"]: each["checksumValue"] for each in file["checksums"]}["SHA256"]
        for path, file in files.items()
    }
    real = root(podman, images.operand, f"sha256sum {' '.join(files)}").splitlines()

    assert {"/opt/instance-manager/bin/block-signals", "/usr/lib/locale/locale-archive"} <= set(
        files
    )
    assert sums == {line.split()[1]: line.split()[0] for line in real}
    assert packages[f"postgresql-{MAJOR}"]["checksums"]
    assert all(
        each.get("checksums")
        for each in bill["packages"]
        if each["SPDXID"].startswith("SPDXRef-Python-")
    )


def test_the_list_of_parts_is_what_the_format_asks_for(bill: Any) -> None:
    """SPDX 2.3: its obligatory fields, identifiers once, and relations between those."""
    parts = [each["SPDXID"] for each in (*bill["packages"], *bill["files"])]
    relations = [
        (each["spdxElementId"], each["relatedSpdxElement"]) for each in bill["relationships"]
    ]

    assert (bill["spdxVersion"], bill["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", bill["creationInfo"]["created"])
    assert bill["documentNamespace"].startswith("https://")
    assert len(set(parts)) == len(parts)
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", part) for part in parts)
    assert {end for relation in relations for end in relation} == {*parts, "SPDXRef-DOCUMENT"}
    assert all({"name", "downloadLocation", "filesAnalyzed"} <= set(e) for e in bill["packages"])


def test_dpkg_answers_for_the_image(podman: Podman, images: Images) -> None:
    """Nothing is half installed, and every dependency is there: scanners read its list."""
    assert root(podman, images.operand, "dpkg --audit; apt-get check --quiet=2") == ""


def test_the_image_has_no_health_check_of_its_own(podman: Podman, images: Images) -> None:
    """Probes are asked over HTTP."""
    image = json.loads(podman("image", "inspect", images.operand).checked().out)[0]

    assert not image.get("HealthCheck")
    assert not image["Config"].get("Healthcheck")


def test_nobody_becomes_another_user(podman: Podman, images: Images) -> None:
    """No file has setuid, setgid or capabilities."""
    assert root(podman, images.operand, "find / -xdev -type f -perm /6000") == ""


def test_only_the_places_for_data_can_be_written_by_all(podman: Podman, images: Images) -> None:
    """No file; directories with the sticky bit, that a container mounts something on."""
    script = "find / -xdev ! -type l -perm -0002 -printf '%y %m %p\\n'"
    found = [line.split() for line in root(podman, images.operand, script).splitlines()]

    assert {(kind, mode) for kind, mode, _ in found} == {("d", "1777")}
    assert {path for _, _, path in found} == WRITABLE


def test_nothing_of_the_build_is_left(podman: Podman, images: Images) -> None:
    """No lists or archives of packages, logs, caches, sources or copies of files on users."""
    script = (
        "find /var/lib/apt/lists /var/cache/apt /var/cache/ldconfig /var/log /tmp /var/tmp"
        " /root/.cache /var/lib/dpkg/*-old /var/cache/debconf/*-old /etc/*- /src /reports"
        " /build /usr/share/man /usr/share/postgresql/*/man ! -type d"
        " -size +0 2> /dev/null || true"
    )

    assert root(podman, images.operand, script) == ""


def test_no_bytecode_depends_on_a_time_stamp(podman: Podman, images: Images) -> None:
    """Each file says so in its second word: hashed, and never compared with its source."""
    program = (
        "/opt/instance-manager/bin/python -IB -c 'import pathlib\n"
        'for top in "/usr", "/opt":\n'
        '    for path in pathlib.Path(top).rglob("*.pyc"):\n'
        "        word = path.read_bytes()[4:8]\n"
        '        print(path if word != b"\\1\\0\\0\\0" else "good")\''
    )

    assert set(root(podman, images.operand, program).split()) == {"good"}
