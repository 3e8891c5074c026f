"""The command line of ``extension …``: built only where it is asked for, not on the way to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Protocol

    class Group(Protocol):
        """What argparse adds arguments of a group to; its own class has no public name."""

        def add_argument(self, *names: str, **options: Any) -> Any:
            """Add one."""
            ...

    Add = Callable[[Any, str, str], argparse.ArgumentParser]


def add_to(group: argparse.ArgumentParser, add: Add) -> None:
    """Add the commands of the group.

    Args:
        group: the parser of ``extension``.
        add: makes one command, with the options that all commands have.
    """
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_inspect(add(actions, "inspect", "show what volumes hold, and what is wrong with it"))
    _add_build(add(actions, "build", "make an image of an extension for a server's image"))
    _add_dockerfile(add(actions, "dockerfile", "print a Dockerfile that makes such an image"))
    _add_test(add(actions, "test", "start a server with images, and use all that is in them"))
    _add_catalogue(add(actions, "catalogue", "print what images there are and what is in them"))


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("paths", metavar="PATH", nargs="+", help="a directory that is a volume")
    command.add_argument("--output", choices=("text", "json"), default="text")
    command.add_argument(
        "--postgres-major", type=int, metavar="N", help="judge for this major version"
    )
    command.add_argument(
        "--machine", metavar="NAME", help="judge for this machine, such as x86_64 or aarch64"
    )


def _add_dockerfile(command: argparse.ArgumentParser) -> None:
    _add_contents(command)
    server = command.add_argument_group("the server that it is for")
    server.add_argument(
        "--base",
        metavar="IMAGE",
        required=True,
        help="the server's image, unless the build is given another: --build-arg BASE=IMAGE",
    )
    server.add_argument("--postgres-major", type=int, metavar="N", help="where it has several")


def _add_catalogue(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "sources",
        metavar="PATH|IMAGE",
        nargs="+",
        help="an OCI layout or an archive of one, or an image of podman's",
    )
    command.add_argument(
        "--registry",
        metavar="PREFIX",
        default="localhost",
        help="where the images of layouts will be (default: localhost)",
    )
    command.add_argument(
        "--format",
        choices=("catalogue", "cloudnativepg"),
        default="catalogue",
        help="for extensions.catalogue, or a ClusterImageCatalog of CloudNativePG",
    )
    command.add_argument(
        "--postgres-image",
        metavar="MAJOR=IMAGE",
        action="append",
        default=[],
        help="the server's image, for cloudnativepg; once for each major version",
    )
    command.add_argument(
        "--name", default="extensions", help="of the ClusterImageCatalog (default: extensions)"
    )


def _add_test(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "sources",
        metavar="PATH|IMAGE",
        nargs="+",
        help="a volume's directory, an OCI layout or an archive of one, or an image of podman's",
    )
    command.add_argument(
        "--with",
        dest="beside",
        metavar="PATH|IMAGE",
        action="append",
        default=[],
        help="mount another one beside, for what is required",
    )
    command.add_argument(
        "--sql",
        metavar="STATEMENT",
        action="append",
        default=[],
        help="run it when all extensions are created; several in one session",
    )
    command.add_argument(
        "--parameter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter of the server",
    )
    command.add_argument(
        "--statement-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="for each statement (default: 120)",
    )
    command.add_argument("--output", choices=("text", "json"), default="text")


def _add_build(command: argparse.ArgumentParser) -> None:
    _add_contents(command).add_argument(
        "--from-directory", metavar="DIR", help="a tree that make install DESTDIR=DIR has made"
    )
    server = command.add_argument_group("the server that it is for")
    server.add_argument(
        "--base",
        metavar="IMAGE|ROOTFS",
        required=True,
        help="the server's image: a name that podman knows, a directory, or an archive of files",
    )
    server.add_argument(
        "--base-name", metavar="IMAGE", default="", help="what the result calls it (default: that)"
    )
    server.add_argument("--postgres-major", type=int, metavar="N", help="where it has several")
    server.add_argument(
        "--with",
        dest="beside",
        metavar="PATH|IMAGE",
        action="append",
        default=[],
        help="another volume that will be mounted beside: its libraries are not brought",
    )
    _add_packages(command.add_argument_group("how packages are got"))
    result = command.add_argument_group("the result")
    result.add_argument(
        "--output",
        metavar="[oci:|oci-archive:|dir:]PATH",
        required=True,
        help="an OCI layout (default), that as an archive, or the volume as a directory",
    )
    result.add_argument(
        "--compression",
        choices=("gzip", "zstd"),
        default="gzip",
        help="of the layer (default: gzip, which everything takes)",
    )
    result.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    result.add_argument(
        "--force", action="store_true", help="write it though a server would refuse it"
    )
    result.add_argument("--format", choices=("text", "json"), default="text", help="the summary")


def _add_contents(command: argparse.ArgumentParser) -> Group:
    what = command.add_argument_group("what it is made of")
    what.add_argument(
        "--package",
        metavar="NAME[=VERSION]",
        action="append",
        default=[],
        help="a Debian package; several make one image; libraries too",
    )
    what.add_argument(
        "--bundle",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="hold another extension's package too, which is required otherwise",
    )
    what.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="leave out files of the extension, such as 'lib/postgis_sfcgal-3.so'",
    )
    what.add_argument(
        "--name",
        "--flavour",
        metavar="NAME",
        help="the image's name (default: by the first package); one that holds several extensions"
        " is called a flavour, such as geo",
    )
    what.add_argument(
        "--version-label", metavar="TEXT", help="its version (default: the package's)"
    )
    what.add_argument(
        "--preload",
        metavar="LIBRARY",
        action="append",
        default=[],
        help="record that it is to be in shared_preload_libraries",
    )
    what.add_argument(
        "--smoke-test",
        metavar="STATEMENT",
        action="append",
        default=[],
        help="record SQL that extension test runs",
    )
    _add_metadata(command.add_argument_group("what else its metadata says"))
    what.add_argument(
        "--label", metavar="KEY=VALUE", action="append", default=[], help="a label of the image"
    )
    return what


def _add_metadata(group: Group) -> None:
    for name, form, text in (
        ("--parameter", "NAME=VALUE", "a parameter of the server, of the extension's own"),
        ("--preload-after", "LIBRARY=OTHER,…", "what must be preloaded before one of its own"),
        ("--env", "NAME=VALUE", "a variable of the server; ${image_root} is the volume"),
        ("--requires", "EXTENSION", "what another volume or the server must have"),
        ("--path", "FIELD=DIRECTORY", "where it has something, such as bin_path=tools"),
    ):
        group.add_argument(name, metavar=form, action="append", default=[], help=text)
    group.add_argument("--source", metavar="TEXT", default="", help="where its source is")
    group.add_argument("--revision", metavar="TEXT", default="", help="of which commit it is")


def _add_packages(group: Group) -> None:
    group.add_argument(
        "--sources",
        choices=("base", "host"),
        default="base",
        help="whose sources and keys of apt (default: the base's)",
    )
    group.add_argument("--no-update", action="store_true", help="take the lists of the last time")
    group.add_argument(
        "--apt-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of apt.conf(5), such as Acquire::http::Proxy=http://…",
    )
    group.add_argument(
        "--cache",
        metavar="DIR",
        help="keeps lists and packages (default: $XDG_CACHE_HOME/instance-manager)",
    )
