"""The development registry behind a gate and faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import StreamReader, web

from cli.devregistry.problems import Problem
from cli.devregistry.server import DevRegistry
from shared.oci.digest import Digest
from tests.servers.devregistry.faults import Fault, FaultPlan
from tests.servers.devregistry.tokens import Gate

_PIECE = 64 << 10


class FaultyRegistry(DevRegistry):
    """
    Args:
        root: folder for its files; made if missing, kept at the end.
        faults: what shall go wrong; ``registry.faults`` may be changed while it runs.
        gate: authentication; none by default.
        chunk_min_length: bytes, announced as ``OCI-Chunk-Min-Length`` when not 0.
    """

    def __init__(
        self,
        root: Path,
        *,
        faults: FaultPlan | None = None,
        gate: Gate | None = None,
        chunk_min_length: int = 0,
    ) -> None:
        super().__init__(root)
        self.faults = faults or FaultPlan()
        self.gate = gate or Gate()
        self.requests: deque[tuple[str, str]] = deque(maxlen=10_000)
        """Method and path with query of the latest requests."""
        self._chunk_min_length = chunk_min_length

    def application(self) -> web.Application:
        application = super().application()
        application.on_shutdown.append(self._release)
        return application

    async def _release(self, _application: web.Application) -> None:
        self.faults.released.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
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
                    return await self._drop(request, fault.after)
                case _:
                    on_answer.append(fault)
        response = await self._admitted(request)
        for fault in on_answer:
            response = await self._spoilt(request, response, fault)
        return response

    async def _admitted(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.path == "/token":
                return self.gate.token(request)
            self.gate.admit(request)
        except Problem as problem:
            return problem.response()
        response = await super().answer(request)
        if self._chunk_min_length and "/blobs/uploads/" in request.path:
            response.headers["OCI-Chunk-Min-Length"] = str(self._chunk_min_length)
        return response

    async def _drop(self, request: web.Request, after: int) -> web.StreamResponse:
        """Keep ``after`` bytes of an upload's body, and reset the connection."""
        await self.uploads.append(request.path.rpartition("/")[2], _first(request.content, after))
        return _cut(request, web.Response())

    async def _spoilt(self, request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
        """Send ``response`` wrong."""
        if fault.kind == "reset" and not fault.after:
            return _cut(request, response)
        body, start = await self._body_of(request, response)
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

    async def _body_of(self, request: web.Request, response: web.StreamResponse) -> tuple[bytes, int | None]:
        """The body that would have been sent, and where its range starts."""
        if isinstance(response, web.FileResponse):
            digest = Digest(request.path.rpartition("/")[2])
            data = await asyncio.to_thread(self.storage.blob_path(digest).read_bytes)
            wanted = request.http_range
            if wanted.start is None:
                return data, None
            return data[wanted], wanted.start
        if isinstance(response, web.Response) and isinstance(response.body, bytes):
            return response.body, None
        return b"", None


async def _first(body: StreamReader, size: int) -> AsyncIterator[bytes]:
    left = size
    while left and (data := await body.read(min(left, _PIECE))):
        yield data
        left -= len(data)


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Reset the connection, whatever is still under way."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return response
