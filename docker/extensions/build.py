"""Build and test a set of extension images: ``make extensions``.

    python docker/extensions/build.py [NAME ...] [--load PREFIX] [--fresh] ...

Each image is built by ``instance-manager extension build`` into a layout of its own, and tested by
``instance-manager extension test`` in a container of the server's image, without a network. What
was good is kept until its definition, the server's image, the builder or an image that it is built
with changes. At the end the catalogues are written beside the images. Exit code 0 where all are
good, 1 where one is not, 2 for a wrong use.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CHECKOUT: Final = Path(__file__).resolve().parents[2]
PREFIX: Final = os.environ.get("IMAGE_PREFIX") or "localhost/instance-manager"
MAJOR: Final = os.environ.get("PG_MAJOR") or "18"
BUILD_KEYS: Final = frozenset(
    ("package", "bundle", "exclude", "preload", "smoke-test", "label", "with", "version-label")
)
TEST_KEYS: Final = frozenset(("parameter", "sql"))
BUILD_SECONDS: Final = 1800
TEST_SECONDS: Final = 900
ENDING_SECONDS: Final = 30
GOOD: Final = "good"


class WrongUseError(Exception):
    """Something that was asked for can't be done; the text is for people."""


class Record(NamedTuple):
    """What came of an image; *key* is a hash of all that it was made of."""

    name: str
    verdict: str
    key: str = ""
    version: str = ""
    digest: str = ""
    size: int = 0
    compressed: int = 0
    seconds: float = 0
    why: str = ""
    is_kept: bool = False


def main() -> int:
    """Do it."""
    options = arguments().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)
    try:
        definitions = read_set(options.set)
        names = in_order(definitions, options.names or list(definitions))
        options.output.mkdir(parents=True, exist_ok=True)
        with alone(options.output):
            clear(options.output, definitions)
            return make(options, definitions, names)
    except WrongUseError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say("interrupted: what is good is kept")
        return 130


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Build and test a set of extension images.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="images (default: all)")
    add = parser.add_argument
    add("--set", type=Path, default=CHECKOUT / "docker/extensions/set.toml", metavar="FILE")
    add("--base", default=f"{PREFIX}/postgresql:{MAJOR}", help="the server's image")
    add("--base-name", default="", help="what the images call it")
    add("--output", type=Path, default=CHECKOUT / "build/extensions", metavar="DIR")
    add("--cache", metavar="DIR", help="keeps lists and packages")
    add("--apt-option", action="append", default=[], metavar="KEY=VALUE")
    add("--fresh", action="store_true", help="build again what is there: packages may be newer")
    add("--no-test", action="store_true", help="build only, as for another machine")
    add("--load", metavar="PREFIX", help="give them to podman, as PREFIX/NAME:MAJOR")
    add("--registry", metavar="PREFIX", help="where the catalogues say that the images are")
    add("--postgres-image", metavar="IMAGE", help="the server's there (default: that of --base)")
    return parser


def say(text: str) -> None:
    """Tell people."""
    print(f"extensions: {text}", file=sys.stderr, flush=True)


def read_set(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return the options of each image."""
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WrongUseError(f"cannot read the set {path}: {error}") from None
    for name, table in document.items():
        if not isinstance(table, dict):
            raise WrongUseError(f"{path}: {name} is no table")
        if unknown := set(table) - BUILD_KEYS - TEST_KEYS:
            raise WrongUseError(f"{path}: [{name}] has unknown keys: {', '.join(sorted(unknown))}")
        for key, values in table.items():
            if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
                raise WrongUseError(f"{path}: {key} of [{name}] is no list of text")
    return document


def in_order(definitions: dict[str, dict[str, list[str]]], names: Sequence[str]) -> list[str]:
    """Return the names, and what they are built with before them."""
    found: list[str] = []

    def add(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            raise WrongUseError(f"{' is built with '.join((*way, name))}")
        if name not in definitions:
            known = ", ".join(definitions)
            raise WrongUseError(f"no image is called {name!r}; known are {known}")
        for other in definitions[name].get("with", []):
            add(other, (*way, name))
        if name not in found:
            found.append(name)

    for name in names:
        add(name, ())
    return found


@contextlib.contextmanager
def alone(output: Path) -> Iterator[None]:
    """Hold the directory: two runs at once would take each other's images away."""
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WrongUseError(f"another run is at work in {output}") from None
        yield


def clear(output: Path, names: Iterable[str]) -> None:
    """Remove what builds left behind that were killed."""
    for name in names:
        for place in output.glob(f".{name}.*"):
            if place.is_dir():
                shutil.rmtree(place)


def make(
    options: argparse.Namespace, definitions: dict[str, dict[str, list[str]]], names: list[str]
) -> int:
    """Make all of them, go on where one fails, and print the table."""
    ground = base_digest(options.base) + builder_digest()
    records: dict[str, Record] = {}
    options.is_updated = False
    for number, name in enumerate(names, 1):
        say(f"{number} of {len(names)}: {name}")
        records[name] = make_one(options, name, definitions[name], ground, records)
        say(f"{name}: {records[name].verdict}{' as before' * records[name].is_kept}")
        if options.load and is_fine(records[name], options):
            load(options, name)
    fine = {name for name in records if is_fine(records[name], options)}
    noted = {name for name in definitions if (options.output / f".{name}.json").exists()}
    catalogues(options, [name for name in definitions if name in fine | noted])
    table(list(records.values()))
    return 0 if all(is_fine(each, options) for each in records.values()) else 1


def is_fine(record: Record, options: argparse.Namespace) -> bool:
    """Say whether there is nothing to be done about an image."""
    return record.verdict == GOOD or (options.no_test and record.verdict == "not tested")


def make_one(
    options: argparse.Namespace,
    name: str,
    definition: dict[str, list[str]],
    ground: str,
    records: dict[str, Record],
) -> Record:
    """Build and test one image, unless it is there already."""
    others = [records[each] for each in definition.get("with", [])]
    if failed := [each.name for each in others if not is_fine(each, options)]:
        return Record(name, "not built", why=f"{', '.join(failed)} is not good")
    parts = (ground, json.dumps(definition, sort_keys=True), *(each.digest for each in others))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    place, noted = options.output / name, options.output / f".{name}.json"
    if not options.fresh and (kept := read_record(noted, place, key)):
        return kept
    noted.unlink(missing_ok=True)
    began = time.monotonic()
    built = build(options, name, definition, place)
    if built.verdict == GOOD:
        built = built._replace(key=key)
        verdict, why = ("not tested", "") if options.no_test else test(options, name, definition)
        built = built._replace(verdict=verdict, why=why)
    built = built._replace(seconds=round(time.monotonic() - began, 1))
    if built.verdict == GOOD:
        scratch = noted.with_suffix(".new")
        scratch.write_text(json.dumps(built._asdict()))
        scratch.replace(noted)
    return built


def read_record(noted: Path, place: Path, key: str) -> Record | None:
    """Return what was noted of an image, if that is still true."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        record = Record(**json.loads(noted.read_text()))
        index = json.loads((place / "index.json").read_text())
        digest = index["manifests"][0]["digest"]
        if (record.key, record.digest) == (key, digest):
            return record._replace(is_kept=True)
    return None


def build(
    options: argparse.Namespace, name: str, definition: dict[str, list[str]], place: Path
) -> Record:
    """Build one image."""
    command = [sys.executable, "-m", "instance_manager", "extension", "build"]
    command += [f"--name={name}", f"--base={options.base}", f"--base-name={options.base_name}"]
    command += [f"--output=oci:{place}", "--overwrite", "--format=json"]
    command += [f"--cache={options.cache}"] if options.cache else []
    command += [f"--apt-option={each}" for each in options.apt_option]
    # All of a run come from one reading of the lists.
    command += ["--no-update"] if options.is_updated else []
    for option in sorted(BUILD_KEYS & set(definition)):
        for value in definition[option]:
            text = value.replace("{major}", MAJOR)
            command.append(f"--{option}={options.output / text if option == 'with' else text}")
    said = run(command, BUILD_SECONDS)
    if said is None or said.returncode != 0:
        return Record(name, "not built", why=why_not(said))
    options.is_updated = True
    summary: dict[str, Any] = json.loads(said.stdout)
    return Record(
        *(name, GOOD, "", summary["version"], summary["digest"]),
        *(summary["size_bytes"], summary["compressed_bytes"]),
    )


def test(
    options: argparse.Namespace, name: str, definition: dict[str, list[str]]
) -> tuple[str, str]:
    """Return the verdict on one image, and why."""
    container = f"extension-test-{os.getpid()}-{name}"
    command = [*podman(), "run", "--rm", f"--name={container}", "--network=none", "--read-only"]
    command += ["--tmpfs=/tmp", "--tmpfs=/run", "--cap-drop=ALL", "--security-opt=label=disable"]
    # A host may not be allowed to raise its limits to podman's own.
    command += ["--ulimit=nofile=20000:20000", "--ulimit=nproc=10000:10000"]
    command += [f"--volume={options.output.resolve()}:/set:ro", "--entrypoint=instance-manager"]
    command += [options.base, "extension", "test", "--output=json", f"/set/{name}"]
    command += [f"--with=/set/{each}" for each in definition.get("with", [])]
    for option in sorted(TEST_KEYS & set(definition)):
        command += [f"--{option}={value}" for value in definition[option]]
    try:
        said = run(command, TEST_SECONDS)
    finally:
        # One that was interrupted goes on without its client.
        run([*podman(), "rm", "--force", "--ignore", "--time=0", container], 60)
    try:
        if said is None:
            return "bad", why_not(said)
        result = json.loads(said.stdout)["items"][0]
    except (ValueError, LookupError):
        return "bad", why_not(said)
    return result["verdict"], "; ".join(reasons(result))


def reasons(result: dict[str, Any]) -> Iterator[str]:
    """Yield why an image is not good."""
    for each in result["findings"]:
        if each["severity"] == "error":
            yield f"{each['code']} {each['message']}"
    for subject in result["subjects"]:
        for step in subject["steps"]:
            if step["outcome"] == "failed":
                yield f"{subject['kind']} {subject['name']}: {step['name']}: {step['detail']}"


def run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    """Run a program; return None where it took too long."""
    try:
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
    except OSError as error:
        raise WrongUseError(f"cannot run {command[0]}: {error.strerror}") from None
    with program:
        try:
            out, errors = program.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            end(program)
            return None
        except KeyboardInterrupt:
            end(program)
            raise
    return subprocess.CompletedProcess(command, program.returncode, out, errors)


def end(program: subprocess.Popen[str]) -> None:
    """End a program so that it can clear away what is half done; kill one that does not."""
    program.terminate()
    try:
        program.communicate(timeout=ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()


def why_not(said: subprocess.CompletedProcess[str] | None) -> str:
    """Return the last words of a program that failed."""
    if said is None:
        return "it took too long"
    return said.stderr.strip()[-2000:] or f"exit code {said.returncode}"


def podman() -> list[str]:
    """Return podman's command; crun refuses hosts that mix both cgroup versions, runc does not."""
    runtime = ["--runtime", "runc"] if shutil.which("runc") else []
    return [os.environ.get("PODMAN") or "podman", *runtime]


def base_digest(base: str) -> str:
    """Return what tells one base from another."""
    if Path(base).exists():
        return str(Path(base).resolve())
    said = run([*podman(), "image", "inspect", "--format={{.Id}}", base], 60)
    if said is None or said.returncode != 0:
        raise WrongUseError(f"podman has no image {base}: make image")
    return said.stdout.strip()


def builder_digest() -> str:
    """Return what tells one builder from another."""
    digest = hashlib.sha256()
    for place in sorted((CHECKOUT / "instance_manager").rglob("*.py")):
        if place.parent.name in {"images", "smoke", "extensions"}:
            digest.update(place.read_bytes())
    return digest.hexdigest()


def load(options: argparse.Namespace, name: str) -> None:
    """Give an image to podman."""
    image = f"{options.load}/{name}:{MAJOR}"
    said = run([*podman(), "pull", "--quiet", f"oci:{options.output / name}"], BUILD_SECONDS)
    if said is None or said.returncode != 0:
        raise WrongUseError(f"podman does not take {name}: {why_not(said)}")
    tagged = run([*podman(), "tag", said.stdout.split()[-1], image], 60)
    if tagged is None or tagged.returncode != 0:
        raise WrongUseError(f"podman does not call it {image}: {why_not(tagged)}")
    say(f"{name} is {image}")


def catalogues(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Write what there is for the manager, and for CloudNativePG."""
    if not names:
        return
    command = [sys.executable, "-m", "instance_manager", "extension", "catalogue"]
    command += [f"--registry={options.registry or options.load or 'localhost'}"]
    command += [f"--postgres-image={MAJOR}={options.postgres_image or options.base}"]
    command += [str(options.output / name) for name in names]
    for form in ("catalogue", "cloudnativepg"):
        said = run([*command, f"--format={form}"], BUILD_SECONDS)
        if said is None or said.returncode != 0:
            raise WrongUseError(f"there is no catalogue: {why_not(said)}")
        place = options.output / f"{form}.yaml"
        scratch = place.with_suffix(".new")
        scratch.write_text(said.stdout)
        scratch.replace(place)
        say(f"{place}")


def table(records: Sequence[Record]) -> None:
    """Print what came of all."""
    rows: list[tuple[str, ...]] = [
        ("image", "version", "unpacked", "compressed", "seconds", "verdict")
    ]
    for each in records:
        sizes = (f"{size / 1e6:.1f} MB" if size else "" for size in (each.size, each.compressed))
        seconds = f"{each.seconds:.1f}" + " (before)" * each.is_kept
        rows.append((each.name, each.version, *sizes, seconds, each.verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    for each in records:
        if each.why:
            print(f"\n{each.name}: {each.verdict}\n  " + each.why.replace("\n", "\n  "))
    total = sum(each.seconds for each in records if not each.is_kept)
    good = sum(each.verdict == GOOD for each in records)
    print(f"\n{good} of {len(records)} are good; {total:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
