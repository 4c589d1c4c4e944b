"""``blob.meta``: where each chunk of a blob lies, as ``nydusd`` reads it at run time.

Version 1 entries, 16 bytes. There is no "compressed" flag: a chunk counts as compressed if its two sizes differ, which is why
compressed bytes are kept only when strictly fewer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import Final, NamedTuple

from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.layout import BLOCK, KNOWN_BLOB_FEATURES, Compressor
from drivers.nydus.tree import Blob, Chunk

MAGIC: Final = 0xB10BB10B
HEADER_SIZE: Final = BLOCK
ENTRY_SIZE: Final = 16
MAXIMUM_ARRAY: Final = 256 << 20
_ENTRY: Final = Struct("<QQ")
_HEADER: Final = Struct("<IIIIQQQQQI4032xI")


class ChunkInfo(NamedTuple):
    """Offsets and sizes in bytes; the uncompressed offset is a multiple of 4096."""

    compressed_offset: int
    compressed_size: int
    uncompressed_offset: int
    uncompressed_size: int


def encode_chunk_infos(chunks: Iterable[ChunkInfo | Chunk]) -> bytes:
    """The array, in the order of the blob."""
    words = []
    for chunk in chunks:
        usize = chunk.uncompressed_size - 1
        csize = chunk.compressed_size - 1
        words.append((usize & 0xFFFFF) << 44 | chunk.uncompressed_offset | (usize & 0xF00000) >> 12)
        words.append((csize & 0xFFFFF) << 44 | (csize & 0xF00000) << 20 | chunk.compressed_offset)
    return Struct(f"<{len(words)}Q").pack(*words)


def decode_chunk_infos(array: bytes) -> list[ChunkInfo]:
    """Every entry, checked for what ``nydusd`` demands: contiguous data, 4 KiB steps of the uncompressed offset.

    Raises:
        InvalidNydusError: fields ``blob.meta[i].*``.
    """
    require(len(array) % ENTRY_SIZE == 0, "blob.meta", f"{len(array)} bytes are no number of entries")
    found: list[ChunkInfo] = []
    uoff = coff = 0
    made = partial(tuple.__new__, ChunkInfo)  # a third of the time of ChunkInfo()
    for first, second in _ENTRY.iter_unpack(array):
        csize = (second >> 44 | second >> 20 & 0xF00000) + 1
        usize = (first >> 44 | (first & 0xF00) << 12) + 1
        if first & 0xFFFFFFFF000 != uoff or second & 0xFFFFFFFFFF != coff:
            field = f"blob.meta[{len(found)}]"
            require(second & 0xFFFFFFFFFF == coff, f"{field}.compressed_offset", f"is not {coff}")
            raise InvalidNydusError(f"{field}.uncompressed_offset", f"is not {uoff}")
        found.append(made((coff, csize, uoff, usize)))
        uoff = uoff + usize + BLOCK - 1 & -BLOCK
        coff += csize
    return found


@dataclass(frozen=True, slots=True)
class MetaHeader:
    """The 4096 bytes behind the array."""

    features: int
    compressor: Compressor
    entries: int
    offset: int
    compressed_size: int
    uncompressed_size: int
    zran_offset: int = 0
    zran_size: int = 0
    zran_count: int = 0

    @classmethod
    def of(cls, blob: Blob, *, zran_offset: int = 0, zran_size: int = 0, zran_count: int = 0) -> MetaHeader:
        """What a blob's record says of its array."""
        return cls(
            blob.features,
            Compressor(blob.ci_compressor),
            blob.chunk_count,
            blob.ci_offset,
            blob.ci_compressed_size,
            blob.ci_uncompressed_size,
            zran_offset,
            zran_size,
            zran_count,
        )

    def encode(self) -> bytes:
        return _HEADER.pack(
            MAGIC,
            self.features,
            self.compressor,
            self.entries,
            self.offset,
            self.compressed_size,
            self.uncompressed_size,
            self.zran_offset,
            self.zran_size,
            self.zran_count,
            MAGIC,
        )


def decode_meta_header(data: bytes) -> MetaHeader:
    """Raises InvalidNydusError with fields ``blob.meta.header.*``."""
    require(len(data) == HEADER_SIZE, "blob.meta.header", f"{len(data)} bytes")
    magic, features, compressor, entries, offset, compressed_size, uncompressed_size, *zran, end = _HEADER.unpack(data)
    require(magic == MAGIC and end == MAGIC, "blob.meta.header.magic", f"is {magic:#x} and {end:#x}")
    require(compressor in set(Compressor), "blob.meta.header.ci_compressor", f"unknown algorithm {compressor}")
    require(features & ~KNOWN_BLOB_FEATURES == 0, "blob.meta.header.features", f"unknown bits in {features:#x}")
    require(uncompressed_size <= MAXIMUM_ARRAY, "blob.meta.header.ci_uncompressed_size", f"is {uncompressed_size}")
    return MetaHeader(features, Compressor(compressor), entries, offset, compressed_size, uncompressed_size, *zran)
