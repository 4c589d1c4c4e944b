"""A converted layer, read back from the repository it is in: its table of contents, bootstrap and chunk information."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from drivers.nydus.blob import toc
from drivers.nydus.blob.chunk_info import HEADER_SIZE, MAXIMUM_ARRAY, decode_chunk_infos, decode_meta_header
from drivers.nydus.blob.tar_header import SIZE as TAR_HEADER_SIZE
from drivers.nydus.blob.toc import TocEntry, decode_toc, toc_size
from drivers.nydus.compression import decompress
from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.decode import decode_bootstrap
from drivers.nydus.rafs_v6.layout import BLOCK, align
from shared.errors import LimitExceededError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest

ReadRange = Callable[[Descriptor, int, int], Awaitable[bytes]]
"""``(blob, start, length)`` → exactly those bytes."""

MAXIMUM_BOOTSTRAP = 1 << 30
"""Bytes, uncompressed: some eight million files."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What the merge and the bootstrap layer need of a layer. ``meta`` is empty for a layer without data."""

    digest: Digest
    bootstrap: Bootstrap
    meta: bytes


async def read_layer(blob: Descriptor, read_range: ReadRange) -> Layer:
    """Decode and validate; every part is checked against its digest in the table of contents.

    Raises:
        InvalidNydusError: the blob is not a sound Nydus layer; ``field`` names what is wrong.
    """
    require(blob.size >= 2 * TAR_HEADER_SIZE, "blob.size", f"{blob.size} bytes")
    guess = min(blob.size, BLOCK)
    tail = await read_range(blob, blob.size - guess, guess)
    size = toc_size(tail)
    require(size + TAR_HEADER_SIZE <= guess, "toc.size", f"{size} bytes")
    entries = decode_toc(tail[-TAR_HEADER_SIZE - size : -TAR_HEADER_SIZE], blob.size)
    require(toc.BOOTSTRAP in entries, "toc", f"has no {toc.BOOTSTRAP}")
    boot = await _read_part(blob, entries[toc.BOOTSTRAP], read_range, MAXIMUM_BOOTSTRAP)
    bootstrap = await asyncio.to_thread(decode_bootstrap, boot, blob.digest.hex)
    own = [found for found in bootstrap.blobs if found.id == blob.digest.hex]
    require(bool(own) == (toc.BLOB_META in entries), "toc", f"disagrees with the bootstrap about {toc.BLOB_META}")
    if not own:
        return Layer(blob.digest, bootstrap, b"")
    require(toc.BLOB_META_HEADER in entries, "toc", f"has no {toc.BLOB_META_HEADER}")
    array = await _read_part(blob, entries[toc.BLOB_META], read_range, MAXIMUM_ARRAY)
    raw_header = await _read_part(blob, entries[toc.BLOB_META_HEADER], read_range, HEADER_SIZE)
    header = decode_meta_header(raw_header)
    record = own[0]
    for field, mine, theirs in (
        ("entries", header.entries, record.chunk_count),
        ("ci_compressor", header.compressor, record.ci_compressor),
        ("ci_offset", header.offset, record.ci_offset),
        ("ci_compressed_size", header.compressed_size, record.ci_compressed_size),
        ("ci_uncompressed_size", header.uncompressed_size, record.ci_uncompressed_size),
    ):
        require(mine == theirs, f"blob.meta.header.{field}", f"is {mine}, the bootstrap says {theirs}")
    await asyncio.to_thread(_check_chunks, bootstrap, array, record.ci_offset - TAR_HEADER_SIZE)
    return Layer(blob.digest, bootstrap, array + bytes(align(len(array), BLOCK) - len(array)) + raw_header)


def _check_chunks(bootstrap: Bootstrap, array: bytes, data_size: int) -> None:
    infos = decode_chunk_infos(array)
    last = infos[-1]
    end = last.compressed_offset + last.compressed_size
    require(end == data_size, "blob.meta", f"chunks end at {end}, the data at {data_size}")
    pending = [bootstrap.root]
    while pending:
        for inode in (pending.pop().children or {}).values():
            if inode.children is not None:
                pending.append(inode)
            for chunk in inode.chunks:
                info = infos[chunk.index]
                if info != (
                    chunk.compressed_offset,
                    chunk.compressed_size,
                    chunk.uncompressed_offset,
                    chunk.uncompressed_size,
                ):
                    raise InvalidNydusError(f"blob.meta[{chunk.index}]", "differs from the bootstrap's chunk table")


async def _read_part(blob: Descriptor, entry: TocEntry, read_range: ReadRange, limit: int) -> bytes:
    if max(entry.size, entry.compressed_size) > limit:
        raise LimitExceededError(f"{entry.name} of {entry.size} bytes in a Nydus layer", limit=f"{limit} bytes")
    packed = await read_range(blob, entry.offset, entry.compressed_size)
    return await asyncio.to_thread(_unpack, packed, entry)


def _unpack(packed: bytes, entry: TocEntry) -> bytes:
    plain = decompress(packed, entry.compressor, entry.size, f"toc[{entry.name}]")
    require(Digest.of(plain).hex == entry.digest.hex(), f"toc[{entry.name}].digest", "does not match")
    return plain
