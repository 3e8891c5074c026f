"""TLS of the control listener: the one place where contexts are made.

Contexts are made whole and never changed: a mismatched pair loaded into a live one breaks its
listener, and a certificate authority can only be added to it.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING
from weakref import WeakSet

from instance_manager.errors import Problem, SettingsError

if TYPE_CHECKING:
    from pathlib import Path


class Contexts:
    """The context in force, and those whose client certificates still count."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.current = context
        # Weak, since a context lives as long as the last connection that was made with it.
        self._trusted: WeakSet[ssl.SSLContext] = WeakSet((context,))
        self._changed = asyncio.Event()

    def replace(self, context: ssl.SSLContext, *, same_authorities: bool) -> None:
        """Use *context* for new connections.

        Without the *same_authorities*, a client certificate of an older connection counts no more:
        the one that signed it may have been removed.
        """
        if not same_authorities:
            self._trusted.clear()
        self._trusted.add(context)
        self.current = context
        self._changed.set()
        self._changed = asyncio.Event()

    def trusts(self, context: object) -> bool:
        """Whether client certificates count on a connection that was made with *context*."""
        return isinstance(context, ssl.SSLContext) and context in self._trusted

    async def changed(self) -> None:
        """Wait for another context."""
        await self._changed.wait()


def server_context(
    certificate_file: Path, key_file: Path, client_ca_file: Path | None = None
) -> ssl.SSLContext:
    """Return a context for a server: TLS 1.3, and client certificates where a CA is given.

    A client without a certificate may still connect, since it may bear a token instead; one whose
    certificate the CA did not sign may not. Reads the files: call it in a thread where they may
    hang.

    Raises:
        SettingsError: a file can't be read, or certificate and key don't belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Who resumes a session shows no certificate again, whatever has become of its authority.
    context.num_tickets = 0
    problems: list[Problem] = []
    try:
        # The answer to a password prompt: an encrypted key must not make PID 1 ask its terminal.
        context.load_cert_chain(certificate_file, key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        problems.append(
            Problem(
                "control.tls.certificate_file",
                f"cannot load {str(certificate_file)!r} with the key {str(key_file)!r}: {error}",
            )
        )
    if client_ca_file is not None:
        try:
            context.load_verify_locations(client_ca_file)
        except OSError as error:
            problems.append(
                Problem(
                    "control.tls.client_ca_file",
                    f"cannot load {str(client_ca_file)!r}: {error}",
                )
            )
        context.verify_mode = ssl.CERT_OPTIONAL
    if problems:
        raise SettingsError(problems, hint="give PEM files that belong together")
    return context
