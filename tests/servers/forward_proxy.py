"""A forward proxy as companies have one: ``CONNECT`` for TLS, absolute URLs for plain HTTP, a password if it wants one.

It alone resolves the names of ``addresses``: who reaches one of them has come through it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.servers.scripted import raw_server


@dataclass
class ForwardProxy:
    addresses: Mapping[str, str]
    """``host:port`` as it is asked for → the ``host:port`` that is meant; nothing else is led to (403)."""
    credential: str = ""
    """``user:password``; asked for if it is not empty."""
    status: int = 0
    """What every request is answered with, if it is not 0."""
    host: str = ""
    seen: list[str] = field(default_factory=list)
    """The places that were asked for, one a connection."""

    @property
    def url(self) -> str:
        return f"http://{self.credential}@{self.host}" if self.credential else f"http://{self.host}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.decode().split(" ", 2)
        place = target if method == "CONNECT" else urlsplit(target).netloc
        self.seen.append(place)
        status = self.status or self._refusal(place, head)
        if status:
            writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
            return
        host, _, port = self.addresses[place].rpartition(":")
        there, onward = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            onward.write(head)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copied(reader, onward))
                group.create_task(_copied(there, writer))
        finally:
            onward.transport.abort()

    def _refusal(self, place: str, head: bytes) -> int:
        wanted = base64.b64encode(self.credential.encode())
        if self.credential and b"Proxy-Authorization: Basic " + wanted + b"\r\n" not in head:
            return 407
        return 0 if place in self.addresses else 403


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


@contextlib.asynccontextmanager
async def forward_proxy(proxy: ForwardProxy) -> AsyncIterator[ForwardProxy]:
    async with raw_server(proxy.handle) as proxy.host:
        yield proxy
