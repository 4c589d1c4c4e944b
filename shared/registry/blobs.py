"""Blobs as verified streams (distribution spec, section Pulling blobs): size and digest are what the descriptor says, or an error.

A cut connection is resumed by a Range request. Hashing runs in a thread beside the transfer.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import aiohttp

from shared.errors import CorruptLayerError, TransientError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.registry.errors import Operation
from shared.registry.hashing import ThreadedHash
from shared.registry.retry import Attempts
from shared.registry.transport import Request, Transport

_PIECE = 1 << 20
"""Bytes; the largest piece that is handed on."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-")


def blob_path(repository: Reference, digest: Digest) -> str:
    return f"/v2/{repository.repository}/blobs/{digest}"


async def stream_blob(transport: Transport, repository: Reference, blob: Descriptor) -> AsyncGenerator[bytes, None]:
    """The blob's bytes in pieces of at most 1 MiB.

    Raises:
        CorruptLayerError: more, fewer or other bytes than the descriptor promises.
        IcsError: what the registry answered.
    """
    operation = Operation("get_blob", repository.registry, repository.repository, str(blob.digest))
    attempts = Attempts(transport.retry, operation, transport.observer)
    hashing = ThreadedHash(blob.digest.algorithm)
    position = 0
    complete = False
    while not complete:
        try:
            async with transport.exchange(
                Request(
                    operation,
                    "GET",
                    blob_path(repository, blob.digest),
                    frozenset({200, 206}),
                    (f"repository:{repository.repository}:pull",),
                    headers={"Range": f"bytes={position}-"} if position else {},
                )
            ) as response:
                start = _starts_at(operation, response, position)
                _check_length(operation, response.headers.get("Content-Length"), start, blob)
                skip = position - start
                while data := await response.content.read(_PIECE):
                    if skip >= len(data):
                        skip -= len(data)
                        continue
                    fresh = data[skip:] if skip else data
                    skip = 0
                    position += len(fresh)
                    if position > blob.size:
                        raise _wrong_size(operation, blob, f"more than {blob.size}")
                    attempts.progressed()
                    transport.observer.transferred(operation.name, operation.registry, len(fresh), 0)
                    await hashing.update(fresh)
                    yield fresh
                if position < blob.size:
                    # A cut and a lie look the same here; asking for the rest tells them apart.
                    raise operation.transient(
                        f"the content ended after {position} of {blob.size} bytes", code="registry_unavailable"
                    )
                complete = True
        except TransientError as error:
            if position == blob.size > 0:  # only the end of the transfer was cut: the digest judges
                break
            await attempts.failed(error)
    actual = await hashing.digest()
    if actual != blob.digest:
        raise CorruptLayerError(
            f"{operation}: the content's digest is {actual}",
            reason="digest",
            actual=str(actual),
            **operation.details(),
        )


def _starts_at(operation: Operation, response: aiohttp.ClientResponse, wanted: int) -> int:
    """The blob's byte that the answer begins with; not every server keeps to the range that it was asked for.

    Raises:
        TransientError: the answer begins behind ``wanted``.
    """
    if response.status == 200:
        return 0
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    start = wanted if match is None else int(match[1])
    if start > wanted:
        raise operation.transient(
            f"the registry answers from byte {start} on, not from {wanted}", code="registry_unavailable"
        )
    return start


def _check_length(operation: Operation, header: str | None, start: int, blob: Descriptor) -> None:
    """Refuse an answer that announces another size, before a byte of it is read."""
    if header is None or not header.isdigit():
        return
    announced = int(header) + start
    if announced != blob.size:
        raise _wrong_size(operation, blob, str(announced))


def _wrong_size(operation: Operation, blob: Descriptor, actual: str) -> CorruptLayerError:
    return CorruptLayerError(
        f"{operation}: the manifest promises {blob.size} bytes and the registry has {actual}",
        reason="size",
        expected=blob.size,
        actual=actual,
        **operation.details(),
    )


async def read_range(transport: Transport, repository: Reference, digest: Digest, start: int, length: int) -> bytes:
    """``length`` bytes from ``start``, not verified (a part has no digest).

    Raises:
        PermanentError: ``range_refused`` when the blob ends before, or the registry serves no ranges of so large a blob.
    """
    operation = Operation("get_blob_range", repository.registry, repository.repository, str(digest))
    if length <= 0:
        return b""
    end = start + length
    attempts = Attempts(transport.retry, operation, transport.observer)
    while True:
        body = bytearray()
        try:
            async with transport.exchange(
                Request(
                    operation,
                    "GET",
                    blob_path(repository, digest),
                    frozenset({200, 206}),
                    (f"repository:{repository.repository}:pull",),
                    headers={"Range": f"bytes={start}-{end - 1}"},
                )
            ) as response:
                skip = start - _starts_at(operation, response, start)
                while len(body) < length and (data := await response.content.read(_PIECE)):
                    fresh = data[skip:]
                    skip = max(0, skip - len(data))
                    body += fresh[: length - len(body)]
        except TransientError as error:
            await attempts.failed(error)
            continue
        transport.observer.transferred(operation.name, operation.registry, len(body), 0)
        if len(body) < length:
            raise operation.permanent(f"the blob ends before byte {end}", code="range_refused")
        return bytes(body)


async def has_blob(
    transport: Transport, repository: Reference, digest: Digest, scopes: tuple[str, ...], *, size: int | None = None
) -> bool:
    """HEAD of the blob. A registry that announces no length is believed to have ``size`` bytes.

    One that still answers 5xx after all repetitions cannot tell, so the blob counts as missing: where only this blob's record
    is broken (CNCF distribution killed while it wrote one leaves it empty), sending the blob again mends it, and a registry
    that is really down says so to the upload.
    """
    operation = Operation("head_blob", repository.registry, repository.repository, str(digest))
    try:
        answer = await transport.send(
            Request(operation, "HEAD", blob_path(repository, digest), frozenset({200, 404}), scopes)
        )
    except TransientError as error:
        status = error.details.get("status")
        if isinstance(status, int | float) and status >= 500:
            return False
        raise
    if answer.status != 200:
        return False
    length = answer.headers.get("Content-Length", "")
    return size is None or not length.isdecimal() or int(length) == size
