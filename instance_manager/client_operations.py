"""The client's calls that begin operations, wait for them, and end them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from instance_manager.api.models import Items, Operation, StartRequest, StopRequest
from instance_manager.api.update_models import UpdateRequest
from instance_manager.client_errors import parsed
from instance_manager.client_transport import OK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from instance_manager.client_transport import Transport
    from instance_manager.supervision.shutdown import StopMode

LONGEST_WAIT_SECONDS: Final = 60
"""As long as the server lets one request wait; a longer wait is several requests."""

_KEY_HEADER: Final = "Idempotency-Key"


class OperationCalls:
    """The half of :class:`~instance_manager.client.Client` that has things done."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def operations(self) -> tuple[Operation, ...]:
        """Return the remembered operations, newest last."""
        return parsed(await self._ask("GET", "/v1/operations"), Items[Operation]).items

    async def operation(self, operation_id: str, *, wait_seconds: float = 0) -> Operation:
        """Return an operation; once it has finished, or after *wait_seconds* as it is then."""
        return await self._wait_on(path_of("v1", "operations", operation_id), wait_seconds)

    async def cancel(self, operation_id: str, *, wait_seconds: float = 0) -> Operation:
        """Cancel an operation and return it as :meth:`operation` does."""
        path = path_of("v1", "operations", operation_id)
        return await self._operate("DELETE", path, None, wait_seconds)

    async def start(
        self,
        *,
        ignore_inventory: bool = False,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Start postgres; wait for it at most *wait_seconds*.

        With *ignore_inventory*, this once whatever databases need by the last inventory.
        """
        # Left out where it says nothing: an older server refuses a field that it does not know.
        body = StartRequest(ignore_inventory=True) if ignore_inventory else None
        return await self._operate(
            "POST", "/v1/postgres/start", body, wait_seconds, idempotency_key
        )

    async def stop(
        self,
        *,
        mode: StopMode | None = None,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Stop postgres and keep it stopped; without a mode, as the settings say."""
        body = StopRequest(mode=mode)
        return await self._operate(
            "POST", "/v1/postgres/stop", body, wait_seconds, idempotency_key
        )

    async def restart(
        self,
        *,
        mode: StopMode | None = None,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Restart postgres."""
        body = StopRequest(mode=mode)
        return await self._operate(
            "POST", "/v1/postgres/restart", body, wait_seconds, idempotency_key
        )

    async def reload(
        self, *, wait_seconds: float = 0, idempotency_key: str | None = None
    ) -> Operation:
        """Apply what needs no restart."""
        return await self._operate(
            "POST", "/v1/postgres/reload", None, wait_seconds, idempotency_key
        )

    async def checkpoint(
        self, *, wait_seconds: float = 0, idempotency_key: str | None = None
    ) -> Operation:
        """Have the server make a checkpoint."""
        return await self._operate(
            "POST", "/v1/postgres/checkpoint", None, wait_seconds, idempotency_key
        )

    async def fence(
        self,
        *,
        mode: StopMode | None = None,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Stop postgres and keep it stopped, over restarts of the manager too."""
        body = StopRequest(mode=mode)
        return await self._operate(
            "POST", "/v1/postgres/fence", body, wait_seconds, idempotency_key
        )

    async def unfence(
        self, *, wait_seconds: float = 0, idempotency_key: str | None = None
    ) -> Operation:
        """Start postgres again where it was fenced."""
        return await self._operate(
            "POST", "/v1/postgres/unfence", None, wait_seconds, idempotency_key
        )

    async def update_extension(  # noqa: PLR0913 - each is a field of the request
        self,
        database: str,
        extension: str,
        *,
        version: str | None = None,
        lock_timeout_seconds: float = 5,
        timeout_seconds: float = 600,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Update an extension; without a version, to the declared or the default one.

        It waits at most *lock_timeout_seconds* for each lock, and a statement lasts at most
        *timeout_seconds*. Both are more than 0 and at most 3600, else ``ValueError``.
        """
        path = path_of("v1", "databases", database, "extensions", extension, "update")
        body = UpdateRequest(
            version=version,
            lock_timeout_seconds=lock_timeout_seconds,
            timeout_seconds=timeout_seconds,
        )
        return await self._operate("POST", path, body, wait_seconds, idempotency_key)

    async def _operate(
        self,
        method: str,
        path: str,
        body: BaseModel | None,
        wait_seconds: float,
        key: str | None = None,
    ) -> Operation:
        # The server lets no request wait longer; the rest is waited for in others.
        first = min(wait_seconds, LONGEST_WAIT_SECONDS)
        # An empty key is sent too, and refused: whoever gives one believes that it protects.
        headers = {_KEY_HEADER: key} if key is not None else None
        answer = await self._ask(method, path, body=body, wait=first, headers=headers)
        operation = parsed(answer, Operation)
        rest = wait_seconds - first
        if operation.finished or rest <= 0:
            return operation
        # The verb is not sent again: that would begin another operation.
        return await self.operation(operation.id, wait_seconds=rest)

    async def _wait_on(self, path: str, seconds: float) -> Operation:
        """Ask until the operation has finished, or the time is up by the clock of the loop."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while True:
            # By the clock, since each request may take longer than it asked to wait.
            wait = min(max(end - clock(), 0), LONGEST_WAIT_SECONDS)
            operation = parsed(await self._ask("GET", path, wait=wait), Operation)
            if operation.finished or clock() >= end:
                return operation

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        wait: float = 0,
        ok: frozenset[int] = OK,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send one request and return the body of its answer."""
        content, _ = await self._transport.exchange(
            method, path, body=body, wait=wait, ok=ok, headers=headers
        )
        return content


def path_of(*segments: str) -> str:
    """Return the path of these segments; a slash inside one is not a separator."""
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)
