"""The algorithms of chunks: digest and compression of one piece of file content, in C, without the GIL."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

import lz4.block
import zstandard
from blake3 import blake3

from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.rafs_v6.layout import Compressor, Digester

Compress = Callable[[bytes], bytes]
ZSTD_LEVEL = 3


class _ThreadContexts(threading.local):
    """A zstd context serves one thread at a time."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}


_contexts = _ThreadContexts()


def _compress_zstd(data: bytes, level: int) -> bytes:
    context = _contexts.compressors.get(level)
    if context is None:
        context = _contexts.compressors[level] = zstandard.ZstdCompressor(level=level)
    return context.compress(data)


def compress(data: bytes, compressor: Compressor, level: int = ZSTD_LEVEL) -> bytes:
    """One zstd frame with its content size, one raw lz4 block, or ``data`` itself: whichever is asked, if it is smaller."""
    if compressor is Compressor.ZSTD:
        packed = _compress_zstd(data, level)
    elif compressor is Compressor.LZ4_BLOCK:
        packed = lz4.block.compress(data, store_size=False)
    else:
        return data
    return packed if len(packed) < len(data) else data


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
