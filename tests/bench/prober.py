"""Asks one address at a steady rate and prints how long each answer took; a program of its own.

Each request has a connection of its own, as those of the kubelet have. The requests begin on time
whether earlier ones were answered or not. Time is taken from the beginning of the connect until
the server has closed the connection. Usage: prober.py PORT PATH RATE SECONDS
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time

_DEADLINE_SECONDS = 5.0


class _Request(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.answer += data

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.done.done():
            self.done.set_result(None)


async def _ask(port: int, request: bytes) -> float | None:
    """Return the seconds that an answer took; None where there was none, or a bad one."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            _, protocol = await loop.create_connection(
                lambda: _Request(request), "127.0.0.1", port
            )
            await protocol.done
    except (OSError, TimeoutError):
        return None
    took = time.perf_counter() - began
    return took if b" 200 " in protocol.answer[:16] else None


async def _measure(port: int, path: str, rate: float, seconds: float) -> list[float | None]:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    began = time.perf_counter()
    tasks: list[asyncio.Task[float | None]] = []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(_ask(port, request)))
    return await asyncio.gather(*tasks)


def main() -> None:
    """Measure as the command line says."""
    port, path, rate, seconds = sys.argv[1:]
    # Where it may: what the asker itself waits for is no time of the one who answers.
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    took = asyncio.run(_measure(int(port), path, float(rate), float(seconds)))
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    main()
