"""The tables of blobs in front of the metadata: EROFS device slots and RAFS blob records."""

from __future__ import annotations

from collections.abc import Sequence

from drivers.nydus.rafs_v6.layout import BLOB, BLOCK, DEVICE, DEVICE_ALIGNMENT, align
from drivers.nydus.tree import Blob
from shared.errors import UnsupportedError


def encode_devices(blobs: Sequence[Blob], file_size: int) -> tuple[bytes, int]:
    """The device slots, and the sum of their blocks."""
    position = file_size
    total = 0
    slots = []
    for blob in blobs:
        blocks = blob.uncompressed_size // BLOCK
        if not blocks:
            raise UnsupportedError("a blob without data in the blob table")
        mapped = align(position, DEVICE_ALIGNMENT) // BLOCK
        slots.append(DEVICE.pack(blob.id.encode(), blocks, mapped, b""))
        position = (mapped + blocks) * BLOCK
        total += blocks
    return b"".join(slots), total


def encode_blob_table(blobs: Sequence[Blob]) -> bytes:
    """256 bytes a blob."""
    return b"".join(
        BLOB.pack(
            blob.id.encode(),
            index,
            blob.chunk_size,
            blob.chunk_count,
            blob.compressor,
            blob.digester,
            blob.features,
            blob.compressed_size,
            blob.uncompressed_size,
            blob.toc_size,
            blob.ci_compressor,
            blob.ci_offset,
            blob.ci_compressed_size,
            blob.ci_uncompressed_size,
            blob.toc_digest,
            blob.meta_digest,
            blob.meta_size,
            b"",
            0,
            b"",
        )
        for index, blob in enumerate(blobs)
    )
