"""TLS of the client."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def client_context(
    *, ca_file: Path | None = None, certificate: tuple[Path, Path] | None = None
) -> ssl.SSLContext:
    """Return a TLS context for :meth:`Client.tcp`.

    Args:
        ca_file: who must have signed the server's certificate; default: the system's authorities.
        certificate: the client's own certificate and key.

    Raises:
        OSError: a file can't be read, or is not what it should be (``ssl.SSLError``); it is named.
    """
    with _naming(ca_file):
        # With a file, the system's authorities are not trusted beside it.
        context = ssl.create_default_context(cafile=ca_file)
    # The server speaks nothing older.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate is not None:
        with _naming(*certificate):
            context.load_cert_chain(*certificate)
    return context


@contextmanager
def _naming(*paths: Path | None) -> Generator[None]:
    """Name the files in what is raised: the library itself tells of none."""
    names = " and ".join(map(str, paths))
    try:
        yield
    except ssl.SSLError as error:
        raise ssl.SSLError(error.errno, f"cannot use {names}: {error.reason or error}") from error
    except OSError as error:
        error.filename = names
        raise
