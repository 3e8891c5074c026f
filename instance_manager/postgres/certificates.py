"""Whether a server could serve TLS with the files that a configuration names.

The server looks at them when it starts, and ends where it can't use them; at a reload it goes on
with those before and tells only its log. So they are tried here before a configuration counts.
Source: be_tls_init() and check_ssl_key_file_permissions(), be-secure-openssl.c and
be-secure-common.c.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from instance_manager.configuration.rendering import values_of
from instance_manager.configuration.values import flag
from instance_manager.errors import Problem

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_DEFAULTS: Final = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}
_AUTHORITIES: Final = ("ssl_ca_file", "ssl_crl_file")
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FOR_OTHERS_OF_ROOTS: Final = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO


class _EncryptedKeyError(Exception):
    pass


def problems(configuration: str, data_directory: Path) -> Iterator[Problem]:
    """Find what the server could not use; nothing where it is not to serve TLS. Blocks.

    Args:
        configuration: the text of our file. What only other files set is not looked at.
        data_directory: relative names begin there.
    """
    values = values_of(configuration)
    if not flag(values.get("ssl", "")):
        return
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    paths = {
        name: data_directory / value
        for name in (*_DEFAULTS, *_AUTHORITIES, "ssl_dh_params_file")
        if (value := values.get(name) or _DEFAULTS.get(name, ""))
    }
    unreadable = dict(_unreadable(paths))
    for name, why in unreadable.items():
        yield _problem(name, paths[name], why)
    if not unreadable.keys() & _DEFAULTS.keys():
        yield from _pair(context, paths, values)
    for name in (*_AUTHORITIES, "ssl_dh_params_file"):
        if name in paths and name not in unreadable:
            yield from _other(context, name, paths[name])
    yield from _ciphers(context, values.get("ssl_ciphers", ""))


def _unreadable(paths: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    for name, path in paths.items():
        try:
            status = path.stat()
            # Before it is opened: to open a FIFO waits for somebody who writes.
            if not stat.S_ISREG(status.st_mode):
                yield name, "it is no regular file"
                continue
            if name == "ssl_key_file" and (why := _too_open(status)):
                yield name, why
                continue
            # Tried, since the mode says nothing of capabilities and access control lists.
            path.open("rb").close()
        except (OSError, ValueError) as error:
            yield name, getattr(error, "strerror", None) or str(error)


def _too_open(status: os.stat_result) -> str:
    """Say what the server has against a key with such an owner and such permissions."""
    if status.st_uid not in {0, os.geteuid()}:
        return "it belongs neither to the server's user nor to root"
    # Keys that the operating system manages are root's, and a group may read them: the manual,
    # "Secure TCP/IP Connections with SSL".
    forbidden = _FOR_OTHERS if status.st_uid == os.geteuid() else _FOR_OTHERS_OF_ROOTS
    if status.st_mode & forbidden:
        mode = "0600" if forbidden == _FOR_OTHERS else "0640"
        return (
            f"others may use it (mode {stat.S_IMODE(status.st_mode):04o}): give it {mode} or less"
        )
    return ""


def _pair(
    context: ssl.SSLContext, paths: Mapping[str, Path], values: Mapping[str, str]
) -> Iterator[Problem]:
    import ssl

    def no_passphrase() -> str:
        raise _EncryptedKeyError

    certificate, key = (paths[name] for name in _DEFAULTS)
    try:
        # Without that function, OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(certificate, key, no_passphrase)
    except _EncryptedKeyError:
        # Its command is the server's to run.
        if not values.get("ssl_passphrase_command"):
            yield _problem("ssl_key_file", key, "it is encrypted: set ssl_passphrase_command")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        yield _problem("ssl_cert_file", certificate, f"it and {key} make no pair: {reason}")


def _other(context: ssl.SSLContext, name: str, path: Path) -> Iterator[Problem]:
    import ssl

    try:
        if name in _AUTHORITIES:
            context.load_verify_locations(path)
        else:
            context.load_dh_params(str(path))
    except (ssl.SSLError, OSError, ValueError) as error:
        yield _problem(name, path, str(getattr(error, "reason", None) or error))


def _ciphers(context: ssl.SSLContext, ciphers: str) -> Iterator[Problem]:
    import ssl

    try:
        if ciphers:
            context.set_ciphers(ciphers)
    except (ssl.SSLError, ValueError) as error:
        yield Problem("parameters.ssl_ciphers", f"names none that there is: {error}")


def _problem(name: str, path: Path, why: str) -> Problem:
    return Problem(f"parameters.{name}", f"cannot use {path}: {why}")
