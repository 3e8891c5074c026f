"""A Dockerfile that makes an image of an extension, for Docker, BuildKit and podman.

Pure. What users give becomes words of a shell and of the Dockerfile: each is quoted for both.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAJOR: Final = re.compile(r"postgresql-(?:[a-z0-9]+-)?([1-9]\d)(?:-|$)")
_SPECIAL: Final = re.compile(r'(["\\$])')


class Wanted(NamedTuple):
    """What the Dockerfile is to make; *options* are of ``extension build``."""

    name: str
    base: str
    options: tuple[str, ...]
    version: str
    major: int | None
    labels: tuple[tuple[str, str], ...]


def major_of(packages: Sequence[str]) -> int | None:
    """Return the version of the server that the packages are for, as their names say it."""
    found = (_MAJOR.match(each) for each in packages)
    return next((int(each[1]) for each in found if each), None)


def render(wanted: Wanted) -> str:
    """Return the text of the Dockerfile."""
    return "\n".join(_lines(wanted)) + "\n"


def _lines(wanted: Wanted) -> Iterator[str]:
    volume = f"/tmp/volume/{wanted.name}"  # noqa: S108 - of the build's own container
    options = " \\\n      ".join(_pairs(wanted.options))
    yield f"""\
# The extension image {wanted.name}, for Docker, BuildKit and podman.
#
# Build arguments:
#   BASE           the image that the server runs in
#   TOOL           an image with instance-manager, apt and dpkg, where BASE has none
#   BUILD_OPTIONS  more options of `instance-manager extension build`, such as
#                  --apt-option=Acquire::http::Proxy=http://proxy:3128
#   VERSION        the version that the labels tell
#
# `--target test` starts a server with the volume and uses all that is in it.
ARG BASE={wanted.base}
ARG TOOL=${{BASE}}


FROM ${{BASE}} AS server
# Podman without layers would take a stage without a step for its own, and remove the image itself.
WORKDIR /


FROM ${{TOOL}} AS build
ARG BASE
ARG BUILD_OPTIONS=""
RUN --mount=type=bind,from=server,source=/,target=/mnt \\
    mkdir /tmp/volume \\
 && instance-manager extension build \\
      {options} \\
      --base /mnt --base-name "${{BASE}}" \\
      --cache /tmp/cache --output dir:{volume} ${{BUILD_OPTIONS}}


FROM ${{BASE}} AS test
COPY --from=build /tmp/volume /tmp/volume
RUN instance-manager extension test {volume}


FROM scratch
COPY --from=build {volume}/ /
ARG BASE
ARG VERSION={wanted.version or "unknown"}"""
    labels = [f"{key}={_quoted(value)}" for key, value in _labels(wanted)]
    yield "LABEL " + " \\\n      ".join(labels)
    yield "USER 65532:65532"


def _pairs(options: Sequence[str]) -> Iterator[str]:
    return map(shlex.quote, options)


def _labels(wanted: Wanted) -> Iterator[tuple[str, str]]:
    own = {
        "org.opencontainers.image.title": wanted.name,
        "org.opencontainers.image.version": _Raw("${VERSION}"),
        "org.opencontainers.image.base.name": "scratch",
        "io.cloudnativepg.image.base.name": _Raw("${BASE}"),
    }
    if wanted.major is not None:
        own["org.opencontainers.image.description"] = (
            f"{wanted.name} for PostgreSQL {wanted.major}"
        )
        own["io.cloudnativepg.image.base.pgmajor"] = str(wanted.major)
        own["io.instance-manager.postgres.major"] = str(wanted.major)
    yield from {**own, **dict(wanted.labels)}.items()


class _Raw(str):
    """Text whose variables are meant."""

    __slots__ = ()


def _quoted(value: str) -> str:
    # A dollar in a label would be a variable of the Dockerfile.
    text = value if isinstance(value, _Raw) else _SPECIAL.sub(r"\\\1", value)
    return f'"{text}"'
