"""Blob uploads (distribution spec, section Pushing blobs): a small blob in one request, a large one in acknowledged chunks.

The chunk under way is kept until the registry has acknowledged it; after an error the registry is asked how far it came and
the rest is sent again. While one chunk travels and is hashed, the next one fills: two chunks of memory, no more.

CNCF distribution (and so Harbor) drops the session of a request whose body was cut in the middle. Then the blob has to be
made anew, which is the caller's: transient, ``upload_interrupted``. In the first chunk everything is still at hand, and the
upload starts over by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from urllib.parse import quote

from yarl import URL

from shared.errors import IcsError, PermanentError, TransientError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.registry.blobs import has_blob
from shared.registry.errors import Operation
from shared.registry.hashing import ThreadedHash
from shared.registry.retry import Attempts
from shared.registry.sessions import UploadSessions
from shared.registry.transport import Answer, Body, Request, Transport, joined

DEFAULT_CHUNK_SIZE = 16 << 20
"""Bytes. Every chunk costs a registry some 20 ms beside its bytes (Debian's docker-registry: 8 MiB 160 MB/s, 16 MiB 204)."""
_MAXIMUM_CHUNK_SIZE = 64 << 20
"""Bytes; what a registry's ``OCI-Chunk-Min-Length`` can ask for at most."""
_CANCEL_TIMEOUT = 5.0
"""Seconds that leaving an upload waits for the chunk under way, and again for the session's end."""
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_SESSION_LOST = frozenset({"upload_unknown", "upload_invalid", "range_refused"})


class BlobUpload:
    """One upload under way; satisfies ``shared.registry.api.Upload``. Used by one task."""

    def __init__(
        self, transport: Transport, repository: Reference, sessions: UploadSessions, *, chunk_size: int
    ) -> None:
        self._transport = transport
        self._sessions = sessions
        self._key = uuid.uuid4().hex
        """Names this upload in the record of open sessions."""
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
                continue
            self._filling += rest[:room]
            self._written += len(rest[:room])
            rest = rest[room:]

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Finish; the descriptor is of what was written."""
        if self._finished:
            raise RuntimeError("committed twice")
        await self._acknowledgement()
        chunk, self._filling = self._filling, bytearray()
        await self._hash.update(memoryview(chunk))
        if self._session is not None:
            self._sending = asyncio.create_task(self._send(chunk))
            digest = await self._hash.digest()
            await self._acknowledgement()
            await self._guarded(self._put_chunked(digest))
        else:
            digest = await self._hash.digest()
            if not await has_blob(self._transport, self._repository, digest, self._scopes):
                await self._guarded(self._put_monolithic(digest, chunk))
        self._finished = True
        await self._sessions.forget(self._key)
        return Descriptor(media_type, digest, self._written, dict(annotations or {}))

    async def close(self) -> None:
        """Cancel what was not committed; bounded, never raises."""
        if self._sending is not None:
            # A session whose request is cut cannot be cancelled at some registries: let the chunk arrive.
            await asyncio.wait({self._sending}, timeout=_CANCEL_TIMEOUT)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        with contextlib.suppress(IcsError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT):
                await self._cancel_session()

    async def _cancel_session(self) -> None:
        session, self._session = self._session, None
        if session is not None and not self._finished:
            await cancel_session(self._transport, self._repository, session)
            await self._sessions.forget(self._key)

    def _named(self, name: str) -> Operation:
        return Operation(name, self._repository.registry, self._repository.repository)

    async def _dispatch(self) -> None:
        """Let the full chunk travel while the next one fills."""
        await self._acknowledgement()
        if self._session is None:
            await self._guarded(self._start())
            if len(self._filling) < self._chunk_size:  # the registry wants larger ones
                return
        chunk, self._filling = self._filling, bytearray()
        await self._hash.update(memoryview(chunk))
        self._sending = asyncio.create_task(self._send(chunk))

    async def _guarded(self, step: Coroutine[None, None, None]) -> None:
        """Run a step that may open a session: cancelled in the middle of it, nobody would know what to cancel."""
        self._sending = asyncio.create_task(step)
        await self._acknowledgement()

    async def _acknowledgement(self) -> None:
        """Wait for what is under way; cancelled, it is left for :meth:`close` to wait for."""
        if self._sending is not None:
            await asyncio.shield(self._sending)
            self._sending = None

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
        if not answer.headers.get("Location"):
            raise self._operation.transient(
                "the registry opened an upload without a location", code="registry_unavailable"
            )
        await self._moved_to(answer)
        minimum = answer.headers.get("OCI-Chunk-Min-Length", "")
        if minimum.isdecimal():
            self._chunk_size = max(self._chunk_size, min(int(minimum[:12]), _MAXIMUM_CHUNK_SIZE))

    async def _moved_to(self, answer: Answer) -> None:
        if location := answer.headers.get("Location"):
            session = self._session = joined(answer.url, location, self._operation)
            # Elsewhere, a location may be signed: then it is a credential, and is not written down.
            if self._transport.access.of(self._repository.registry).is_own(session):
                await self._sessions.record(self._key, self._repository, session.raw_path_qs)

    async def _send(self, chunk: bytearray) -> None:
        """Get ``chunk`` acknowledged, going on wherever the registry stands."""
        begin, end = self._acknowledged, self._acknowledged + len(chunk)
        attempts = Attempts(self._transport.retry, self._operation, self._transport.observer)
        while self._acknowledged < end:
            try:
                if self._session is None:
                    await self._start()
                else:
                    await self._patch(self._session, memoryview(chunk)[self._acknowledged - begin :])
            except TransientError as error:
                await attempts.failed(error)
                before = self._acknowledged
                await self._locate(begin, end)
                if self._acknowledged > before:
                    attempts.progressed()

    async def _patch(self, session: URL, rest: memoryview) -> None:
        try:
            answer = await self._transport.send(
                Request(
                    self._operation,
                    "PATCH",
                    session,
                    frozenset({202, 204}),
                    self._scopes,
                    headers={
                        "Content-Type": "application/octet-stream",
                        "Content-Range": f"{self._acknowledged}-{self._acknowledged + len(rest) - 1}",
                    },
                    body=Body.of(rest),
                ),
                repeat=False,
            )
        except PermanentError as error:
            if error.code in _SESSION_LOST:  # whether there is something to go on with is asked next
                raise self._interrupted("the registry does not take the chunk") from error
            raise
        await self._moved_to(answer)
        stands = _stands_at(answer)
        if stands is not None and stands != self._acknowledged + len(rest):
            raise self._interrupted(f"the registry acknowledged {stands} of {self._acknowledged + len(rest)} bytes")
        self._acknowledged += len(rest)
        self._transport.observer.transferred(self._operation.name, self._operation.registry, 0, len(rest))

    async def _locate(self, begin: int, end: int) -> None:
        """Ask the registry how far the upload came (GET of its location)."""
        if self._session is None:
            return
        answer = await self._transport.send(
            Request(
                self._named("get_upload"),
                "GET",
                self._session,
                frozenset({200, 202, 204, 400, 404, 416}),
                self._scopes,
            )
        )
        if answer.status >= 400:
            if begin > 0:
                raise self._interrupted("the registry has dropped the upload session")
            self._session, self._acknowledged = None, 0  # everything is still in this chunk: start over
            return
        await self._moved_to(answer)
        stands = _stands_at(answer)
        if stands is None or not begin <= stands <= end:
            raise self._interrupted(f"the registry stands at {stands}, where its upload cannot go on")
        self._acknowledged = stands

    def _interrupted(self, what: str) -> TransientError:
        return self._operation.transient(f"{what}; the blob has to be sent anew", code="upload_interrupted")

    async def _put_chunked(self, digest: Digest) -> None:
        """Commit what was acknowledged; an unanswered commit is repeated, since the session still is there or the blob is."""
        attempts = Attempts(self._transport.retry, self._operation, self._transport.observer)
        while True:
            try:
                await self._put(digest, b"")
            except TransientError as error:
                if await has_blob(self._transport, self._repository, digest, self._scopes):
                    return
                if error.code == "upload_interrupted":
                    raise
                await attempts.failed(error)
            else:
                return

    async def _put_monolithic(self, digest: Digest, chunk: bytearray) -> None:
        """POST and PUT; after a failure a new session is opened, since the whole blob is at hand."""
        attempts = Attempts(self._transport.retry, self._operation, self._transport.observer)
        while True:
            try:
                await self._start()
                await self._put(digest, Body.of(chunk))
            except TransientError as error:
                if await has_blob(self._transport, self._repository, digest, self._scopes):
                    return
                with contextlib.suppress(IcsError):
                    await self._cancel_session()
                await attempts.failed(error)
            else:
                self._transport.observer.transferred(self._operation.name, self._operation.registry, 0, len(chunk))
                return

    async def _put(self, digest: Digest, body: bytes | Body) -> None:
        if self._session is None:
            raise RuntimeError("no upload session to commit")
        joint = "&" if self._session.raw_query_string else "?"
        target = URL(f"{self._session}{joint}digest={quote(digest, safe='')}", encoded=True)
        try:
            await self._transport.send(
                Request(
                    self._named("commit_upload"),
                    "PUT",
                    target,
                    frozenset({201, 204}),
                    self._scopes,
                    headers={"Content-Type": "application/octet-stream"},
                    body=body,
                ),
                repeat=False,
            )
        except PermanentError as error:
            if error.code in _SESSION_LOST:
                raise self._interrupted("the registry has dropped the upload session") from error
            if error.code == "digest_refused":
                raise self._interrupted("the registry received other bytes than were sent") from error
            raise


def _stands_at(answer: Answer) -> int | None:
    """Bytes that the registry holds, of its ``Range`` (inclusive; ``0-0`` is what an empty upload answers)."""
    match = _RANGE.fullmatch(answer.headers.get("Range", ""))
    if match is None:
        return None
    last = int(match[1])
    return last + 1 if last else 0


async def cancel_session(transport: Transport, repository: Reference, session: URL) -> None:
    """Ask once; a session that is gone already is as good."""
    operation = Operation("cancel_upload", repository.registry, repository.repository)
    scopes = (f"repository:{repository.repository}:pull,push",)
    await transport.send(
        Request(operation, "DELETE", session, frozenset({200, 202, 204, 400, 404}), scopes), repeat=False
    )


@contextlib.asynccontextmanager
async def open_upload(
    transport: Transport, repository: Reference, sessions: UploadSessions, *, chunk_size: int
) -> AsyncIterator[BlobUpload]:
    """Leaving without ``commit`` cancels the session, even when the task is being cancelled."""
    upload = BlobUpload(transport, repository, sessions, chunk_size=chunk_size)
    try:
        yield upload
    finally:
        closing = asyncio.ensure_future(upload.close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise
