"""The program as its users have it: its own environment from the lock file, compiled.

The environment of the tests holds packages that change what is imported, such as ``rich``. So the
wheel and what it needs, no more, are installed into ``.cache/bench-venv`` as the image's build
installs them, and the image's own command is what is started.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ENVIRONMENT = ROOT / ".cache" / "bench-venv"
_LOCK = ROOT / "requirements.lock"
_COMMAND = ROOT / "docker" / "operand" / "instance-manager"
_HOME_IN_IMAGE = "/opt/instance-manager"


def install() -> Path:
    """Install the checkout as it stands and return the command; what it needs, once a lock."""
    python = _ENVIRONMENT / "bin" / "python"
    stamp = _ENVIRONMENT / f"{hashlib.sha256(_LOCK.read_bytes()).hexdigest()}.lock"
    if not stamp.exists():
        shutil.rmtree(_ENVIRONMENT, ignore_errors=True)
        _run(sys.executable, "-m", "venv", "--without-pip", str(_ENVIRONMENT))
        _pip("--only-binary", ":all:", "--require-hashes", "--requirement", str(_LOCK))
        stamp.touch()
    _pip("--no-deps", "--no-index", "--force-reinstall", str(_wheel()))
    _run(str(python), "-m", "compileall", "-q", "-f", *_HASHED, str(_ENVIRONMENT / "lib"))
    command = _ENVIRONMENT / "bin" / "instance-manager"
    command.write_text(_COMMAND.read_text().replace(_HOME_IN_IMAGE, str(_ENVIRONMENT)))
    command.chmod(0o755)
    return command


_HASHED = ("--invalidation-mode", "unchecked-hash")


def _wheel() -> Path:
    directory = ROOT / ".cache" / "bench-wheel"
    shutil.rmtree(directory, ignore_errors=True)
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory))
    return next(directory.glob("*.whl"))


def _pip(*arguments: str) -> None:
    target = ("--python", str(_ENVIRONMENT / "bin" / "python"))
    _run(sys.executable, "-m", "pip", *target, "install", "--quiet", "--no-compile", *arguments)


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
