"""What stands in front of the metadata: both superblocks, EROFS device slots and RAFS blob records."""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap

from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.layout import (
    BLOB,
    BLOCK,
    COMPRESSOR_FLAGS,
    DEVICE,
    DEVICE_ALIGNMENT,
    DEVICES_OFFSET,
    DIGESTER_FLAGS,
    EXTENDED,
    EXTENDED_OFFSET,
    FEATURE_COMPAT,
    FEATURE_INCOMPAT,
    MAGIC,
    ROOT_NID,
    SUPERBLOCK,
    SUPERBLOCK_OFFSET,
    BlobFeatures,
    Flags,
    align,
)
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


def encode_superblock(file: mmap, bootstrap: Bootstrap, *, entries: int, meta: int, blocks: int) -> None:
    """EROFS's own, into its place in ``file``; ``meta`` is the metadata area's offset, ``blocks`` those of all devices."""
    SUPERBLOCK.pack_into(
        file,
        SUPERBLOCK_OFFSET,
        MAGIC,
        0,
        FEATURE_COMPAT,
        12,
        0,
        ROOT_NID,
        entries,
        0,
        0,
        blocks,
        meta // BLOCK,
        0,
        b"",
        b"",
        FEATURE_INCOMPAT,
        0,
        len(bootstrap.blobs),
        DEVICES_OFFSET // DEVICE.size,
        b"",
    )


def encode_extended(
    file: mmap,
    bootstrap: Bootstrap,
    *,
    blob_table: int,
    chunk_table: int,
    chunk_bytes: int,
    prefetch_table: int,
    prefetch_bytes: int,
) -> None:
    """RAFS's extension, into its place in ``file``; offsets and sizes in bytes."""
    flags = (
        COMPRESSOR_FLAGS[bootstrap.compressor]
        | DIGESTER_FLAGS[bootstrap.digester]
        | Flags.EXPLICIT_UID_GID
        | bootstrap.extra_flags
    )
    if all(blob.features & BlobFeatures.INLINED_CHUNK_DIGEST for blob in bootstrap.blobs):
        flags |= Flags.INLINED_CHUNK_DIGEST
    EXTENDED.pack_into(
        file,
        EXTENDED_OFFSET,
        flags,
        blob_table,
        BLOB.size * len(bootstrap.blobs),
        bootstrap.chunk_size,
        chunk_table,
        chunk_bytes,
        prefetch_table,
        prefetch_bytes,
        0,
        b"",
    )
