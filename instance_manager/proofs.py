"""What callers over TCP must show: token and certificates, read anew when their files change.

What can't be used is told once, and what was used before stays in force. The files are looked at
each second: Kubernetes swaps the links of a whole directory, others write key and certificate one
after the other, so a pair that does not fit is looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Final

from instance_manager.api.tls import Contexts, server_context
from instance_manager.errors import SettingsError
from instance_manager.log import get_logger
from instance_manager.settings.secrets import read_secret
from instance_manager.supervision.threads import in_thread

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from instance_manager.settings.models import ControlSettings

_log: Final = get_logger()
_PERIOD_SECONDS: Final = 1.0
_CONTENT_LIMIT_BYTES: Final = 1 << 20


class Proofs:
    """Token and TLS contexts of the control listener; None where they aren't asked for."""

    def __init__(self, control: ControlSettings) -> None:
        """Read them.

        Raises:
            SettingsError: a file can't be read, or certificate and key don't belong together.
        """
        self._control = control
        # Before they are read: a change in between is seen by the next look.
        self._seen = self._digests()
        self._token = self._read_token()
        context = self._read_context()
        self.contexts = None if context is None else Contexts(context)

    def token(self) -> str | None:
        """Return the token that callers must bear."""
        return self._token

    async def watch(
        self, on_change: Callable[[str], object], on_error: Callable[[str], object]
    ) -> None:
        """Use what the files hold from now on; for ever. Both are told in words."""
        # Ended, the task would be begun again and again.
        if not self._seen:
            await asyncio.Future[None]()
        told = ""
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            digests = await in_thread("certificates", self._digests)
            if digests == self._seen:
                told = ""
                continue
            try:
                changed = await self._read_again(digests)
            except SettingsError as error:
                # It may be half of a change: it is looked at until it fits.
                if error.message != told:
                    _log.error(error.message, hint="what was read before stays in force")
                    on_error(error.message)
                told = error.message
                continue
            told, self._seen = "", digests
            _log.info("read anew", files=changed)
            on_change(f"{changed} was read anew")

    async def _read_again(self, digests: dict[Path, str | None]) -> str:
        """Take what has changed; return which files those are."""
        token = await in_thread("certificates", self._read_token)
        context = await in_thread("certificates", self._read_context)
        files = [path for path, digest in digests.items() if digest != self._seen[path]]
        # Both are read before either is taken: a mistake in one leaves both as they were.
        self._token = token
        tls = self._control.tls
        if context is not None and self.contexts is not None and {*files} - {self._token_file}:
            same = tls.client_ca_file not in files
            self.contexts.replace(context, same_authorities=same)
        return ", ".join(map(str, files))

    @property
    def _token_file(self) -> Path | None:
        return self._control.token_file

    def _read_token(self) -> str | None:
        path = self._token_file
        if path is None:
            return None
        return read_secret(path, "control.token_file").get_secret_value()

    def _read_context(self) -> ssl.SSLContext | None:
        tls = self._control.tls
        if tls.certificate_file is None or tls.key_file is None:
            return None
        return server_context(tls.certificate_file, tls.key_file, tls.client_ca_file)

    def _digests(self) -> dict[Path, str | None]:
        """Return what tells the files' contents; None for what can't be read."""
        tls = self._control.tls
        named = (self._token_file, tls.certificate_file, tls.key_file, tls.client_ca_file)
        return {path: _digest(path) for path in named if path is not None}


def _digest(path: Path) -> str | None:
    with contextlib.suppress(OSError), path.open("rb") as file:
        content = hashlib.sha256(file.read(_CONTENT_LIMIT_BYTES)).hexdigest()
        # Who may read it matters as much as what it says.
        return f"{os.fstat(file.fileno()).st_mode:o} {content}"
    return None
