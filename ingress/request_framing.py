"""How much of a request that is not its body, and how slowly its head, may come: uvicorn keeps all of it, and waits for ever.

The body's own limits are the handlers': what is bounded here comes before any of them is asked, from whoever reaches the port.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

FRAMING = 64 * 1024
"""Bytes of a head, of one chunk's frame, or of the trailers, beside what came in the same read."""
HEAD_TIMEOUT = 10.0
"""Seconds for a head, the first one's since the connection was made."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's own, which hangs up (431, 408) where more comes, or nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._framing = 0
        self._in_head = False
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._framing += len(data)
        super().data_received(data)
        if self._framing > FRAMING:
            self._hang_up(b"431 Request Header Fields Too Large")
        elif self._in_head and self._timer is None:
            self._timer = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # the rest are trailers, which nobody here reads
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._framing -= len(body)
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        self._framing = 0

    def on_message_complete(self) -> None:
        self._framing = 0
        super().on_message_complete()

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_head:
            self._hang_up(b"408 Request Timeout")
        else:  # opened ahead, as clients' pools do: they take an answer that they did not ask for as an error
            self.transport.close()

    def _hang_up(self, status: bytes) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else it would land in the middle of another answer
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
