"""Blob uploads (distribution spec, section Pushing blobs): a small blob in one request, a large one in acknowledged chunks.

The chunk under way is kept until the registry has acknowledged it; after an error the registry is asked how far it came and
the rest is sent again. While one chunk travels and is hashed, the next one fills: two chunks of memory, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping

from yarl import URL

from shared.errors import IcsError, PermanentError, TransientError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.registry.blobs import ThreadedHash, has_blob
from shared.registry.errors import Operation
from shared.registry.retry import Attempts
from shared.registry.transport import Answer, Body, Request, Transport, joined

DEFAULT_CHUNK_SIZE = 8 << 20
"""Bytes."""
_MAXIMUM_CHUNK_SIZE = 16 << 20
_PIECE = 256 << 10
_CANCEL_TIMEOUT = 5.0
"""Seconds that leaving an upload may wait for the registry."""
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")


class BlobUpload:
    """One upload under way; satisfies ``shared.registry.api.Upload``. Used by one task."""

    def __init__(self, transport: Transport, repository: Reference, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        self._transport = transport
        self._repository = repository
        self._chunk_size = chunk_size
        self._operation = Operation("upload_blob", repository.registry, repository.repository)
        self._scopes = (f"repository:{repository.repository}:pull,push",)
        self._hash = ThreadedHash()
        self._filling = bytearray()
        self._sending: asyncio.Task[None] | None = None
        self._session: URL | None = None
        self._acknowledged = 0
        self._written = 0
        self._finished = False

    async def write(self, data: bytes | memoryview) -> None:
        """Copy ``data`` into the chunk that fills; waits while both chunks are full."""
        if self._finished:
            raise RuntimeError("write after commit")
        rest = memoryview(data).cast("B")
        while len(rest):
            room = self._chunk_size - len(self._filling)
            if room <= 0:
                await self._dispatch()
                room = self._chunk_size
            self._filling += rest[:room]
            self._written += len(rest[:room])
            rest = rest[room:]

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Finish; the descriptor is of what was written."""
        if self._finished:
            raise RuntimeError("committed twice")
        await self._drain()
        chunk, self._filling = self._filling, bytearray()
        await self._hash.update(memoryview(chunk))
        digest = await self._hash.digest()
        if self._session is not None:
            await self._send(chunk)
            await self._put(digest, b"")
        elif not await has_blob(self._transport, self._repository, digest, self._scopes):
            await self._monolithic(digest, chunk)
        self._finished = True
        return Descriptor(media_type, digest, self._written, dict(annotations or {}))

    async def close(self) -> None:
        """Cancel what was not committed; bounded, never raises."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
            self._sending = None
        session, self._session = self._session, None
        if session is None or self._finished:
            return
        with contextlib.suppress(IcsError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT):
                await self._transport.send(
                    Request(
                        self._named("cancel_upload"), "DELETE", session, frozenset({200, 202, 204, 404}), self._scopes
                    ),
                    repeat=False,
                )

    def _named(self, name: str) -> Operation:
        return Operation(name, self._repository.registry, self._repository.repository)

    async def _dispatch(self) -> None:
        """Let the full chunk travel while the next one fills."""
        await self._drain()
        chunk, self._filling = self._filling, bytearray()
        self._sending = asyncio.create_task(self._send_hashed(chunk))

    async def _drain(self) -> None:
        if self._sending is not None:
            sending, self._sending = self._sending, None
            try:
                await sending
            except asyncio.CancelledError:
                sending.cancel()
                raise

    async def _send_hashed(self, chunk: bytearray) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hash.update(memoryview(chunk)))
            tasks.create_task(self._send(chunk))

    async def _start(self) -> None:
        answer = await self._transport.send(
            Request(
                self._named("start_upload"),
                "POST",
                f"/v2/{self._repository.repository}/blobs/uploads/",
                frozenset({202}),
                self._scopes,
            )
        )
        self._moved_to(answer)
        minimum = answer.headers.get("OCI-Chunk-Min-Length", "")
        if minimum.isdigit():
            self._chunk_size = max(self._chunk_size, min(int(minimum), _MAXIMUM_CHUNK_SIZE))

    def _moved_to(self, answer: Answer) -> None:
        location = answer.headers.get("Location")
        if not location:
            if self._session is None:
                raise self._operation.transient(
                    "the registry opened an upload without a location", code="registry_unavailable"
                )
            return
        self._session = joined(answer.url, location, self._operation)

    async def _send(self, chunk: bytearray) -> None:
        """Get ``chunk`` acknowledged, going on wherever the registry stands."""
        begin, end = self._acknowledged, self._acknowledged + len(chunk)
        attempts = Attempts(self._transport.retry, self._operation, self._transport.observer)
        while self._acknowledged < end:
            try:
                if self._session is None:
                    await self._start()
                await self._patch(chunk, begin)
            except TransientError as error:
                await attempts.failed(error)
                before = self._acknowledged
                await self._locate(begin, end)
                if self._acknowledged > before:
                    attempts.progressed()

    async def _patch(self, chunk: bytearray, begin: int) -> None:
        if self._session is None:
            raise RuntimeError("no upload session")
        view = memoryview(chunk)[self._acknowledged - begin :]
        answer = await self._transport.send(
            Request(
                self._operation,
                "PATCH",
                self._session,
                frozenset({202, 204}),
                self._scopes,
                {
                    "Content-Type": "application/octet-stream",
                    "Content-Range": f"{self._acknowledged}-{self._acknowledged + len(view) - 1}",
                },
                _body(view),
            ),
            repeat=False,
        )
        self._moved_to(answer)
        stands = _stands_at(answer)
        self._acknowledged += len(view)
        if stands is not None and stands != self._acknowledged:
            raise self._interrupted(f"the registry acknowledged {stands} of {self._acknowledged} bytes")
        self._transport.observer.transferred(self._operation.name, self._operation.registry, 0, len(view))

    async def _locate(self, begin: int, end: int) -> None:
        """Ask the registry how far the upload came (GET of its location)."""
        if self._session is None:
            return
        answer = await self._transport.send(
            Request(self._named("get_upload"), "GET", self._session, frozenset({200, 202, 204, 400, 404}), self._scopes)
        )
        if answer.status in {400, 404}:
            if begin > 0:
                raise self._interrupted("the registry has dropped the upload session")
            self._session, self._acknowledged = None, 0  # everything is still in this chunk: start anew
            return
        self._moved_to(answer)
        stands = _stands_at(answer)
        stands = self._acknowledged if stands is None else stands
        if not begin <= stands <= end:
            raise self._interrupted(f"the registry holds {stands} bytes, which are not kept here any more")
        self._acknowledged = stands

    def _interrupted(self, what: str) -> TransientError:
        return self._operation.transient(f"{what}; the blob has to be sent anew", code="upload_interrupted")

    async def _monolithic(self, digest: Digest, chunk: bytearray) -> None:
        """POST and PUT; a session that got lost is simply opened again, since the whole blob is at hand."""
        attempts = Attempts(self._transport.retry, self._operation, self._transport.observer)
        while True:
            try:
                await self._start()
                await self._put(digest, _body(memoryview(chunk)))
            except TransientError as error:
                await self.close()
                await attempts.failed(error)
            else:
                self._transport.observer.transferred(self._operation.name, self._operation.registry, 0, len(chunk))
                return

    async def _put(self, digest: Digest, body: bytes | Body) -> None:
        """Commit; whether an unanswered commit took place is asked of the blob itself."""
        if self._session is None:
            raise RuntimeError("no upload session")
        attempts = Attempts(self._transport.retry, self._operation, self._transport.observer)
        while True:
            try:
                await self._transport.send(
                    Request(
                        self._named("commit_upload"),
                        "PUT",
                        self._session.update_query({"digest": str(digest)}),
                        frozenset({201, 204}),
                        self._scopes,
                        {"Content-Type": "application/octet-stream"},
                        body,
                    ),
                    repeat=False,
                )
            except TransientError as error:
                if await has_blob(self._transport, self._repository, digest, self._scopes):
                    return
                if body:  # how much of it arrived is unknown: the caller opens a new session
                    raise
                await attempts.failed(error)
            except PermanentError as error:
                if error.code in {"upload_unknown", "blob_unknown"} and await has_blob(
                    self._transport, self._repository, digest, self._scopes
                ):
                    return
                raise
            else:
                return


def _body(view: memoryview) -> Body:
    async def pieces() -> AsyncIterator[bytes | memoryview]:
        for at in range(0, len(view), _PIECE):
            yield view[at : at + _PIECE]

    return Body(pieces, len(view))


def _stands_at(answer: Answer) -> int | None:
    """Bytes that the registry holds, of its ``Range`` (inclusive; ``0-0`` is what an empty upload answers)."""
    match = _RANGE.fullmatch(answer.headers.get("Range", ""))
    if match is None:
        return None
    last = int(match[1])
    return last + 1 if last else 0


@contextlib.asynccontextmanager
async def open_upload(
    transport: Transport, repository: Reference, *, chunk_size: int = DEFAULT_CHUNK_SIZE
) -> AsyncIterator[BlobUpload]:
    """Leaving without ``commit`` cancels the session, even when the task is being cancelled."""
    upload = BlobUpload(transport, repository, chunk_size=chunk_size)
    try:
        yield upload
    finally:
        closing = asyncio.ensure_future(upload.close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise
