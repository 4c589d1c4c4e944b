"""The chunk table: one record for every chunk that a file refers to, sorted by digest and blob."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drivers.nydus.errors import require
from drivers.nydus.rafs_v6.layout import BLOCK, CHUNK, BlobFeatures, ChunkFlags, chunk_index
from drivers.nydus.rafs_v6.superblock import Header
from drivers.nydus.tree import Chunk


def encode_chunk_table(chunks: Iterable[Chunk], blob_number: Mapping[str, int]) -> bytes:
    """80 bytes a chunk.

    Args:
        chunks: those that files refer to, each once.
        blob_number: position in the blob table by blob id; below 256, so that the records' own bytes are in order.
    """
    pack = CHUNK.pack
    records = [
        pack(
            chunk.digest,
            blob_number[chunk.blob.id],
            chunk.flags,
            chunk.compressed_size,
            chunk.uncompressed_size,
            chunk.compressed_offset,
            chunk.uncompressed_offset,
            chunk.file_offset,
            chunk.index,
            chunk.crc32,
        )
        for chunk in chunks
    ]
    records.sort()
    return b"".join(records)


def decode_chunk_table(data: bytes, header: Header) -> dict[int, Chunk]:
    """The chunks by the 8-byte index (little-endian number) that a file refers to them by.

    Raises:
        InvalidNydusError: fields ``chunk[i].*``.
    """
    found: dict[int, Chunk] = {}
    bounds = [(blob, blob.chunk_count, blob.uncompressed_size) for blob in header.blobs]
    blobs, chunk_size = len(bounds), header.chunk_size
    table = memoryview(data)[header.chunk_table : header.chunk_table + header.chunk_table_size]
    for number, record in enumerate(CHUNK.iter_unpack(table)):
        digest, blob_index, flags, csize, usize, coff, uoff, file_offset, index, crc32 = record
        if blob_index >= blobs:
            _report_chunk(header, number, record)
        blob, chunk_count, end = bounds[blob_index]
        if (
            not 0 < usize <= chunk_size
            or not (csize > 0 or blob.features & BlobFeatures.SEPARATE)
            or uoff % BLOCK
            or index >= chunk_count
            or uoff + usize > end
            or flags > 0x1F
            or (not flags and csize != usize)
        ):
            _report_chunk(header, number, record)
        found[chunk_index(blob_index, index, uoff)] = Chunk(
            blob, index, digest, flags, csize, usize, coff, uoff, file_offset, crc32
        )
    return found


def _report_chunk(
    header: Header, number: int, record: tuple[bytes, int, int, int, int, int, int, int, int, int]
) -> None:
    _, blob_index, flags, csize, usize, _, uoff, _, index, _ = record
    field = f"chunk[{number}]"
    require(blob_index < len(header.blobs), f"{field}.blob_index", f"{blob_index} of {len(header.blobs)} blobs")
    blob = header.blobs[blob_index]
    require(0 < usize <= header.chunk_size, f"{field}.uncompressed_size", f"is {usize}")
    require(csize > 0 or bool(blob.features & BlobFeatures.SEPARATE), f"{field}.compressed_size", "is 0")
    require(uoff % BLOCK == 0, f"{field}.uncompressed_offset", f"{uoff} is not a multiple of 4096")
    require(index < blob.chunk_count, f"{field}.index", f"{index} of {blob.chunk_count} chunks")
    require(flags <= sum(ChunkFlags), f"{field}.flags", f"unknown bits in {flags:#x}")
    require(uoff + usize <= blob.uncompressed_size, f"{field}.uncompressed_offset", "lies behind the blob's end")
    require(bool(flags) or csize == usize, f"{field}.compressed_size", "differs from the size of a plain chunk")
