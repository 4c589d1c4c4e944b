"""What decides the bytes of a converted layer."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.nydus.compression import ZSTD_LEVEL
from drivers.nydus.rafs_v6.layout import Compressor, Digester


@dataclass(frozen=True, slots=True)
class Parameters:
    compressor: Compressor = Compressor.ZSTD
    digester: Digester = Digester.BLAKE3
    chunk_size: int = 0x100000
    """Bytes; a power of two from 4 KiB to 16 MiB."""
    level: int = ZSTD_LEVEL
    """Of zstd."""
    prefetch_patterns: tuple[str, ...] = ("/",)
    share_chunks: bool = True
    """Between the layers of an image."""
