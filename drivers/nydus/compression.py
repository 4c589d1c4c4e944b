"""The algorithms of chunks: digest and compression of one piece of file content, in C, without the GIL."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import lz4
import lz4.block
import zstandard
from blake3 import blake3

from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.rafs_v6.layout import Compressor, Digester

ZSTD_LEVEL = 3


def library_versions() -> list[str]:
    """Of the compressors whose releases may change the bytes that the same data gives."""
    return [".".join(map(str, zstandard.ZSTD_VERSION)), lz4.library_version_string()]


class _ThreadContexts(threading.local):
    """A zstd context serves one thread at a time."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}


_contexts = _ThreadContexts()


def _zstd(level: int) -> zstandard.ZstdCompressor:
    context = _contexts.compressors.get(level)
    if context is None:
        context = _contexts.compressors[level] = zstandard.ZstdCompressor(level=level)
    return context


def compress_each(pieces: Sequence[bytes], compressor: Compressor, level: int = ZSTD_LEVEL) -> list[bytes]:
    """Every (non-empty) piece by itself: one zstd frame with its content size, or one raw lz4 block, if that is smaller.

    zstd takes the whole batch in one call, so that many small files do not fight for the interpreter.
    """
    if compressor is Compressor.ZSTD and pieces:
        frames = _zstd(level).multi_compress_to_buffer(list(pieces))
        packed = [frames[position].tobytes() for position in range(len(pieces))]
    elif compressor is Compressor.LZ4_BLOCK:
        packed = [lz4.block.compress(piece, store_size=False) for piece in pieces]
    else:
        return list(pieces)
    return [small if len(small) < len(piece) else piece for small, piece in zip(packed, pieces, strict=True)]


def compress(data: bytes, compressor: Compressor, level: int = ZSTD_LEVEL) -> bytes:
    """:func:`compress_each` of one piece."""
    return compress_each([data], compressor, level)[0]


def decompress(data: bytes, compressor: Compressor, size: int, field: str) -> bytes:
    """Exactly ``size`` bytes.

    Raises:
        InvalidNydusError: ``field`` does not decompress to that.
    """
    try:
        if compressor is Compressor.ZSTD:
            plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
        elif compressor is Compressor.LZ4_BLOCK:
            plain = lz4.block.decompress(data, uncompressed_size=size)
        else:
            plain = data
    except (zstandard.ZstdError, lz4.block.LZ4BlockError, ValueError) as error:
        raise InvalidNydusError(field, f"does not decompress: {error}") from error
    if len(plain) != size:
        raise InvalidNydusError(field, f"decompresses to {len(plain)} bytes, must be {size}")
    return plain


def digest(data: bytes, digester: Digester) -> bytes:
    """32 bytes."""
    if digester is Digester.BLAKE3:
        return blake3(data).digest()
    return hashlib.sha256(data).digest()


def digest_each(pieces: Sequence[bytes], digester: Digester) -> list[bytes]:
    """:func:`digest` of every piece."""
    if digester is Digester.BLAKE3:
        return [blake3(piece).digest() for piece in pieces]
    sha256 = hashlib.sha256
    return [sha256(piece).digest() for piece in pieces]
