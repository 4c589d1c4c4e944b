"""Read a referred-to gzip layer as ``nydusd`` does: by range, each context inflated by itself."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping

from drivers.nydus.errors import require
from drivers.nydus.zran.deflate_stream import inflate_range
from drivers.nydus.zran.index import Context, ZranChunk, ZranIndex
from shared.oci.descriptor import Descriptor


async def check_reference(
    original: Descriptor,
    index: ZranIndex,
    digests: Mapping[int, bytes],
    read_range: Callable[[Descriptor, int, int], Awaitable[bytes]],
) -> None:
    """Every chunk against its digest (sha256).

    Args:
        original: the gzip layer.
        index: of it.
        digests: by number of chunk.
        read_range: ``(blob, start, length)`` → exactly those bytes.

    Raises:
        InvalidNydusError: fields ``zran[i]`` and ``chunk[i].digest``.
    """
    wanted: list[list[int]] = [[] for _ in index.contexts]
    for number, chunk in enumerate(index.chunks):
        wanted[chunk.context].append(number)
    for number, context in enumerate(index.contexts):
        data = await read_range(original, context.in_offset, context.in_size)
        chunks = {chunk: index.chunks[chunk] for chunk in wanted[number]}
        await asyncio.to_thread(_check_context, f"zran[{number}]", data, context, chunks, digests)


def _check_context(
    field: str, data: bytes, context: Context, chunks: Mapping[int, ZranChunk], digests: Mapping[int, bytes]
) -> None:
    plain = inflate_range(
        data,
        bits=context.bits,
        byte=context.byte,
        window=context.dictionary,
        size=context.out_size,
        field=field,
    )
    view = memoryview(plain)
    for number, chunk in chunks.items():
        found = hashlib.sha256(view[chunk.offset : chunk.offset + chunk.uncompressed_size]).digest()
        require(digests.get(number, found) == found, f"chunk[{number}].digest", "does not match the data")
