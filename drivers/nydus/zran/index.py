"""A reference's ``blob.meta``: chunk information of version 2, inflate contexts, and the contexts' dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.layout import BLOCK, align

CHUNK_SIZE: Final = 24
CONTEXT_SIZE: Final = 40
MAXIMUM_COMPRESSED: Final = (1 << 24) - 1
"""Of one chunk, in bytes."""
_COMPRESSED_AND_ZRAN: Final = 3
_CHUNK: Final = Struct("<IBBBBQII")
_CONTEXT: Final = Struct("<QQQIIIBBxx")


class ZranChunk(NamedTuple):
    """Offsets and sizes in bytes. The compressed ones name the span of the gzip stream that the chunk lies in."""

    compressed_offset: int
    compressed_size: int
    uncompressed_offset: int
    uncompressed_size: int
    context: int
    offset: int
    """In what the context inflates to."""


class Context(NamedTuple):
    """A place where inflating may begin. Positions and sizes in bytes: ``in`` of the gzip stream, ``out`` of the tar."""

    in_offset: int
    out_offset: int
    in_size: int
    out_size: int
    byte: int
    """The one in front of ``in_offset``."""
    bits: int
    """Of it, still unused."""
    dictionary: bytes


@dataclass(frozen=True, slots=True)
class ZranIndex:
    chunks: Sequence[ZranChunk]
    contexts: Sequence[Context]


def encode_index(index: ZranIndex) -> bytes:
    """The whole array: chunks, contexts, dictionaries."""
    parts = []
    for chunk in index.chunks:
        size = chunk.uncompressed_size - 1
        parts.append(
            _CHUNK.pack(
                chunk.uncompressed_offset // BLOCK,
                size & 0xFF,
                size >> 8 & 0xFF,
                size >> 16,
                _COMPRESSED_AND_ZRAN,
                chunk.compressed_offset | chunk.compressed_size << 40,
                chunk.offset,
                chunk.context,
            )
        )
    position = 0
    for context in index.contexts:
        size = len(context.dictionary)
        parts.append(
            _CONTEXT.pack(
                context.in_offset,
                context.out_offset,
                position,
                context.in_size,
                context.out_size,
                size,
                context.byte,
                context.bits,
            )
        )
        position += size
    parts += (context.dictionary for context in index.contexts)
    return b"".join(parts)


def decode_index(array: bytes, chunk_count: int, context_count: int, blob_size: int) -> ZranIndex:
    """Everything, checked for what ``nydusd`` demands.

    Args:
        array: the plain array.
        chunk_count: of the blob.
        context_count: from the header.
        blob_size: of the gzip stream, in bytes.

    Raises:
        InvalidNydusError: fields ``blob.meta[i].*`` and ``zran[i].*``.
    """
    dictionaries = CHUNK_SIZE * chunk_count + CONTEXT_SIZE * context_count
    require(context_count <= chunk_count, "blob.meta.header.zran_count", f"{context_count} for {chunk_count} chunks")
    require(dictionaries <= len(array), "blob.meta", f"{len(array)} bytes, {dictionaries} and dictionaries expected")
    table = memoryview(array)
    contexts = []
    for number, (in_offset, out_offset, at, in_size, out_size, size, byte, bits) in enumerate(
        _CONTEXT.iter_unpack(table[CHUNK_SIZE * chunk_count : dictionaries])
    ):
        field = f"zran[{number}]"
        require(in_offset + in_size <= blob_size, f"{field}.in_len", f"ends at {in_offset + in_size} of {blob_size}")
        require(in_size > 0 and out_size > 0, f"{field}.out_len", "is 0")
        require(bits < 8, f"{field}.ctx_bits", f"is {bits}")
        require(dictionaries + at + size <= len(array), f"{field}.dict_offset", f"{at} lies outside the table")
        dictionary = bytes(table[dictionaries + at : dictionaries + at + size])
        contexts.append(Context(in_offset, out_offset, in_size, out_size, byte, bits, dictionary))
    chunks = []
    position = 0
    for number, (block, low, middle, high, flags, compressed, offset, context_number) in enumerate(
        _CHUNK.iter_unpack(table[: CHUNK_SIZE * chunk_count])
    ):
        field = f"blob.meta[{number}]"
        size = (low | middle << 8 | high << 16) + 1
        chunk = ZranChunk(compressed & 0xFFFFFFFFFF, compressed >> 40, block * BLOCK, size, context_number, offset)
        require(flags == _COMPRESSED_AND_ZRAN, f"{field}.flags", f"are {flags:#x}, must be {_COMPRESSED_AND_ZRAN:#x}")
        require(
            chunk.uncompressed_offset == position,
            f"{field}.uncompressed_offset",
            f"is {chunk.uncompressed_offset}, must be {position}",
        )
        end = chunk.compressed_offset + chunk.compressed_size
        require(end <= blob_size, f"{field}.compressed_size", f"ends at {end} of {blob_size}")
        if context_number >= context_count:
            raise InvalidNydusError(f"{field}.zran_index", f"is {context_number} of {context_count}")
        require(
            offset + size <= contexts[context_number].out_size,
            f"{field}.zran_offset",
            f"{offset} and {size} bytes in a context of {contexts[context_number].out_size}",
        )
        position = align(position + size, BLOCK)
        chunks.append(chunk)
    return ZranIndex(chunks, contexts)
