"""An answer's head and body in one write: uvicorn writes them one after the other, and each write is a system call that wakes the
other side, which can do nothing with a head alone.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ingress.request_framing import BoundedProtocol

AT_MOST = 64 * 1024
"""Bytes that wait for the end of a turn; with more, the transport must be able to tell that it is full."""


class GatheringProtocol(BoundedProtocol):
    """uvicorn's own, over a transport that writes once a turn of the event loop."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        gathering = _Gathering(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", gathering))


class _Gathering:
    """A transport; all that it does not do itself, the one behind it does."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self.is_closing = transport.is_closing
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > AT_MOST:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
