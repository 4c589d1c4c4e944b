"""RAFS v6 on-disk structures: EROFS superblock and inodes plus RAFS extensions. Little-endian, offsets in bytes."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

BLOCK: Final = 4096
SLOT: Final = 32
"""Inode positions are multiples of this; a nid counts them from the metadata area's start."""
ROOT_NID: Final = BLOCK // SLOT

SUPERBLOCK_OFFSET: Final = 1024
EXTENDED_OFFSET: Final = 1152
DEVICES_OFFSET: Final = 1408
DEVICE_ALIGNMENT: Final = 0x80000
"""Of ``mapped_blkaddr``: where a device would begin if everything were one disk."""

MAGIC: Final = 0xE0F5E1E2
FEATURE_COMPAT: Final = 0x40000000
FEATURE_INCOMPAT: Final = 0x0000000C  # chunked files, device table
MAXIMUM_BLOBS: Final = 254
MAXIMUM_CHUNKS: Final = 1 << 24
MINIMUM_CHUNK_SIZE: Final = 0x1000
MAXIMUM_CHUNK_SIZE: Final = 0x1000000
MAXIMUM_NAME: Final = 255
MAXIMUM_SYMLINK: Final = 4096
OWN_BLOB_ID: Final = "x" * 64
"""Stands for "the blob that this bootstrap is part of", whose digest cannot be known inside it."""

SUPERBLOCK: Final = Struct("<IIIBBHQQIIII16s16sIHHH38s")
EXTENDED: Final = Struct("<QQIIQQQII200s")
DEVICE: Final = Struct("<64sII56s")
BLOB: Final = Struct("<64sIIIIIIQQIIQQQ32s32sQ8sI36s")
INODE: Final = Struct("<HHHHQIIIIqII16s")
"""The time is signed: the kernel takes it so, and files may be older than 1970."""
PLAIN: Final = Struct(f"{INODE.format}Q")
"""The inode of a file without attributes, and the index of its one chunk."""
COMPACT_INODE: Final = Struct("<HHHHIIIIHHI")
DIRENT: Final = Struct("<QHBB")
CHUNK: Final = Struct("<32sIIIIQQQII")

FORMAT_EXTENDED: Final = 1
LAYOUT_PLAIN: Final = 0
LAYOUT_INLINE: Final = 2
LAYOUT_CHUNKED: Final = 4
CHUNK_FORMAT_INDEXES: Final = 0x20
CHUNK_FORMAT_BITS: Final = 0x1F


class Compressor(IntEnum):
    """Of chunks and of the chunk-info array, as numbered in a blob record."""

    NONE = 0
    LZ4_BLOCK = 1
    GZIP = 2
    ZSTD = 3


class Digester(IntEnum):
    BLAKE3 = 0
    SHA256 = 1


class Flags(IntFlag):
    """Of the extended superblock."""

    COMPRESSOR_NONE = 0x1
    COMPRESSOR_LZ4 = 0x2
    DIGESTER_BLAKE3 = 0x4
    DIGESTER_SHA256 = 0x8
    EXPLICIT_UID_GID = 0x10
    HAS_XATTR = 0x20
    COMPRESSOR_GZIP = 0x40
    COMPRESSOR_ZSTD = 0x80
    INLINED_CHUNK_DIGEST = 0x100
    TARFS = 0x200
    ENCRYPTION_NONE = 0x01000000
    ENCRYPTION_AES_128_XTS = 0x02000000


COMPRESSOR_FLAGS: Final = {
    Compressor.NONE: Flags.COMPRESSOR_NONE,
    Compressor.LZ4_BLOCK: Flags.COMPRESSOR_LZ4,
    Compressor.GZIP: Flags.COMPRESSOR_GZIP,
    Compressor.ZSTD: Flags.COMPRESSOR_ZSTD,
}
DIGESTER_FLAGS: Final = {Digester.BLAKE3: Flags.DIGESTER_BLAKE3, Digester.SHA256: Flags.DIGESTER_SHA256}


class BlobFeatures(IntFlag):
    ALIGNED = 0x1
    INLINED_FS_META = 0x2
    CHUNK_INFO_V2 = 0x4
    ZRAN = 0x8
    SEPARATE = 0x10
    INLINED_CHUNK_DIGEST = 0x20
    TARFS = 0x40
    BATCH = 0x80
    ENCRYPTED = 0x100
    IS_CHUNKDICT_GENERATED = 0x200
    PREFETCH_BLOB = 0x400
    EXTERNAL = 0x800
    HAS_TAR_HEADER = 0x10000000
    HAS_TOC = 0x20000000
    CAP_TAR_TOC = 0x40000000


KNOWN_BLOB_FEATURES: Final = 0x70000FFF
NATIVE_FEATURES: Final = (
    BlobFeatures.ALIGNED
    | BlobFeatures.INLINED_FS_META
    | BlobFeatures.INLINED_CHUNK_DIGEST
    | BlobFeatures.HAS_TAR_HEADER
    | BlobFeatures.HAS_TOC
    | BlobFeatures.CAP_TAR_TOC
)
REFERENCE_FEATURES: Final = NATIVE_FEATURES | BlobFeatures.CHUNK_INFO_V2 | BlobFeatures.ZRAN | BlobFeatures.SEPARATE
"""Of a blob that refers to a gzip layer."""


class ChunkFlags(IntFlag):
    COMPRESSED = 0x1
    HOLE = 0x2
    ENCRYPTED = 0x4
    BATCH = 0x8
    HAS_CRC32 = 0x10


FILE_TYPES: Final = {0o100000: 1, 0o040000: 2, 0o020000: 3, 0o060000: 4, 0o010000: 5, 0o140000: 6, 0o120000: 7}
"""``S_IFMT`` bits to a dirent's type byte."""


def align(value: int, to: int) -> int:
    """Round up to a multiple of ``to``, a power of two."""
    return (value + to - 1) & ~(to - 1)


def chunk_index(blob: int, index: int, uncompressed_offset: int) -> int:
    """The 8 bytes, as a little-endian number, by which a file refers to a chunk."""
    return (index & 0xFFFF) | ((index >> 16) << 8 | (blob + 1)) << 16 | (uncompressed_offset // BLOCK) << 32
