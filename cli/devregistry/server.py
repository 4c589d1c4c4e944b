"""The development registry as a server, with its faults."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from cli.devregistry.faults import Fault, FaultPlan
from cli.devregistry.problems import Problem
from cli.devregistry.routes import BlobResponse, Routes
from cli.devregistry.storage import Storage
from cli.devregistry.tokens import Gate

_PIECE = 64 << 10


class DevRegistry:
    """One registry over one folder.

    Args:
        root: folder for its files; made if missing, kept at the end.
        faults: what shall go wrong; ``registry.faults`` may be changed while it runs.
        gate: authentication; none by default.
        chunk_min_length: announced as ``OCI-Chunk-Min-Length`` when not 0.
    """

    def __init__(
        self,
        root: Path,
        *,
        faults: FaultPlan | None = None,
        gate: Gate | None = None,
        chunk_min_length: int = 0,
    ) -> None:
        self.storage = Storage(root)
        self.faults = faults or FaultPlan()
        self.gate = gate or Gate()
        self.requests: deque[tuple[str, str]] = deque(maxlen=10_000)
        """Method and path with query of the latest requests."""
        self._routes = Routes(self.storage, self.gate, chunk_min_length=chunk_min_length)

    def application(self) -> web.Application:
        self.storage.prepare()
        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        take: int | None = None
        on_answer: list[Fault] = []
        for fault in self.faults.take(request.method, request.path_qs):
            match fault.kind:
                case "delay":
                    await asyncio.sleep(fault.seconds)
                case "hang":
                    await self.faults.released.wait()
                case "status":
                    return web.Response(status=fault.status, headers=dict(fault.headers), body=fault.body)
                case "drop_request":
                    take = fault.after
                case _:
                    on_answer.append(fault)
        try:
            response = await self._routes.handle(request, take=take)
        except Problem as problem:
            response = problem.response()
        if take is not None:
            return _cut(request, web.Response())
        for fault in on_answer:
            response = await _spoilt(request, response, fault)
        return response


async def _spoilt(request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
    """Send ``response`` wrong."""
    if fault.kind == "reset" and not fault.after:
        return _cut(request, response)
    body, start = await _body_of(request, response)
    if fault.kind == "corrupt" and body:
        body = bytes([body[0] ^ 0xFF]) + body[1:]
    spoilt = web.StreamResponse(status=206 if start else response.status, headers=response.headers)
    if start is not None:
        spoilt.headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/*"
    spoilt.content_length = len(body)
    await spoilt.prepare(request)
    sent = body if fault.kind == "corrupt" else body[: fault.after]
    for at in range(0, len(sent), _PIECE):
        await spoilt.write(sent[at : at + _PIECE])
    if fault.kind == "corrupt":
        await spoilt.write_eof()
        return spoilt
    if fault.kind == "reset":
        return _cut(request, spoilt)
    if request.transport is not None:
        request.transport.close()
    return spoilt


async def _body_of(request: web.Request, response: web.StreamResponse) -> tuple[bytes, int | None]:
    """The body that would have been sent, and where its range starts."""
    if isinstance(response, BlobResponse):
        data = await asyncio.to_thread(response.file.read_bytes)
        wanted = request.http_range
        if wanted.start is None:
            return data, None
        return data[wanted], wanted.start
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        return response.body, None
    return b"", None


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Reset the connection, whatever is still under way."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return response


@contextlib.asynccontextmanager
async def serve_registry(registry: DevRegistry, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve on a free port of this machine until the block ends; gives ``host:port``."""
    runner = web.AppRunner(
        registry.application(),
        access_log=None,
        shutdown_timeout=1.0,
        read_bufsize=1 << 20,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        registry.faults.released.set()
        await runner.cleanup()
