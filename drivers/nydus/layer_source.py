"""A converted layer, read back from the repository it is in: its table of contents, bootstrap and chunk information."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from drivers.nydus import media
from drivers.nydus.blob import toc
from drivers.nydus.blob.chunk_info import (
    HEADER_SIZE,
    MAXIMUM_ARRAY,
    ChunkInfo,
    decode_chunk_infos,
    decode_meta_header,
)
from drivers.nydus.blob.parts import DIGEST_SIZE, check_places, unpack
from drivers.nydus.blob.tar_header import SIZE as TAR_HEADER_SIZE
from drivers.nydus.blob.toc import TocEntry, decode_toc, toc_size
from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.decode import decode_bootstrap
from drivers.nydus.rafs_v6.layout import BLOCK, BlobFeatures, align
from drivers.nydus.tree import Blob, inodes
from drivers.nydus.zran.index import ZranIndex, decode_index
from shared.errors import LimitExceededError, PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest

ReadRange = Callable[[Descriptor, int, int], Awaitable[bytes]]
"""``(blob, start, length)`` → exactly those bytes."""

MAXIMUM_BOOTSTRAP: Final = 1 << 30
"""Bytes, uncompressed: some eight million files."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What the merge and the bootstrap layer need of a layer."""

    digest: Digest
    bootstrap: Bootstrap
    meta: bytes = b""
    """``blob.meta`` in the form of nydusd's cache: the plain array padded to 4096, then its header; empty without data."""
    chunk_digests: bytes = b""
    """32 bytes a chunk; empty if the blob has no list of them."""
    reference: Digest | None = None
    """Of the gzip layer that holds the data, if the blob itself holds none."""

    @property
    def blob_id(self) -> str:
        return (self.reference or self.digest).hex

    @property
    def own(self) -> Blob | None:
        """The record of its data in the layer's own bootstrap."""
        return next((blob for blob in self.bootstrap.blobs if blob.id == self.blob_id), None)

    def index(self, record: Blob) -> ZranIndex:
        """Of a reference.

        Raises:
            InvalidNydusError: fields ``blob.meta[i].*`` and ``zran[i].*``.
        """
        header = decode_meta_header(self.meta[-HEADER_SIZE:])
        array = self.meta[: record.ci_uncompressed_size]
        return decode_index(array, record.chunk_count, header.zran_count, record.compressed_size)

    def chunk_infos(self, record: Blob) -> list[ChunkInfo]:
        """Raises InvalidNydusError."""
        if self.reference is not None:
            return [ChunkInfo(*chunk[:4]) for chunk in self.index(record).chunks]
        return decode_chunk_infos(self.meta[: record.ci_uncompressed_size])


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
    reference = _reference(blob)
    bootstrap = await asyncio.to_thread(decode_bootstrap, boot, (reference or blob.digest).hex)
    record = Layer(blob.digest, bootstrap, reference=reference).own
    check_places(entries, record, blob.size - size - TAR_HEADER_SIZE)
    if record is None:
        return Layer(blob.digest, bootstrap, reference=reference)
    separate = bool(record.features & BlobFeatures.SEPARATE)
    require(separate == (reference is not None), "blob[0].features", f"are {record.features:#x}")
    if separate:
        table = tail[-TAR_HEADER_SIZE - size : -TAR_HEADER_SIZE]
        point_to(record, blob, table)
    array = await _read_part(blob, entries[toc.BLOB_META], read_range, MAXIMUM_ARRAY)
    raw_header = await _read_part(blob, entries[toc.BLOB_META_HEADER], read_range, HEADER_SIZE)
    header = decode_meta_header(raw_header)
    for field, mine, theirs in (
        ("features", header.features, record.features),
        ("entries", header.entries, record.chunk_count),
        ("ci_compressor", header.compressor, record.ci_compressor),
        ("ci_offset", header.offset, record.ci_offset),
        ("ci_compressed_size", header.compressed_size, record.ci_compressed_size),
        ("ci_uncompressed_size", header.uncompressed_size, record.ci_uncompressed_size),
    ):
        require(mine == theirs, f"blob.meta.header.{field}", f"is {mine}, the bootstrap says {theirs}")
    digests = b""
    if toc.CHUNK_DIGESTS in entries:
        digests = await _read_part(blob, entries[toc.CHUNK_DIGESTS], read_range, 2 * MAXIMUM_ARRAY)
    padding = bytes(align(len(array), BLOCK) - len(array))
    layer = Layer(blob.digest, bootstrap, array + padding + raw_header, digests, reference)
    await asyncio.to_thread(_check_chunks, layer, record)
    return layer


def point_to(record: Blob, blob: Descriptor, table: bytes) -> None:
    """Make a reference's record say where its chunk information is, as the merged bootstrap must; ``table`` is the blob's
    table of contents.
    """
    record.meta_digest = bytes.fromhex(blob.digest.hex)
    record.meta_size = blob.size
    record.toc_digest = hashlib.sha256(table).digest()


def _reference(blob: Descriptor) -> Digest | None:
    text = blob.annotations.get(media.NYDUS_REF)
    try:
        return None if text is None else Digest(text)
    except PermanentError as error:
        raise InvalidNydusError(f"manifest.layers[{media.NYDUS_REF}]", error.message) from error


def _check_chunks(layer: Layer, record: Blob) -> None:
    """The chunk array and the list of digests against the bootstrap's chunk table."""
    infos, digests = layer.chunk_infos(record), layer.chunk_digests
    if layer.reference is None:
        last = infos[-1]
        end, data_size = last.compressed_offset + last.compressed_size, record.ci_offset - TAR_HEADER_SIZE
        require(end == data_size, "blob.meta", f"chunks end at {end}, the data at {data_size}")
    for inode in inodes(layer.bootstrap.root):
        for chunk in inode.chunks:
            if chunk.blob is not record:
                continue
            index = chunk.index
            if infos[index] != (
                chunk.compressed_offset,
                chunk.compressed_size,
                chunk.uncompressed_offset,
                chunk.uncompressed_size,
            ):
                raise InvalidNydusError(f"blob.meta[{index}]", "differs from the bootstrap's chunk table")
            if digests and digests[DIGEST_SIZE * index : DIGEST_SIZE * (index + 1)] != chunk.digest:
                raise InvalidNydusError(f"blob.digest[{index}]", "differs from the bootstrap's chunk table")


async def _read_part(blob: Descriptor, entry: TocEntry, read_range: ReadRange, limit: int) -> bytes:
    if max(entry.size, entry.compressed_size) > limit:
        message = f"{entry.name} of {entry.size} bytes in a Nydus layer, more than {limit}"
        raise LimitExceededError(message, limit=entry.name)
    packed = await read_range(blob, entry.offset, entry.compressed_size)
    return await asyncio.to_thread(unpack, packed, entry)
