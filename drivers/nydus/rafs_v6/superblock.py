"""Read the superblock, its RAFS extension, the device slots and the blob table, checking every field."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.layout import (
    BLOB,
    BLOCK,
    CHUNK,
    COMPRESSOR_FLAGS,
    DEVICE,
    DEVICES_OFFSET,
    DIGESTER_FLAGS,
    EXTENDED,
    EXTENDED_OFFSET,
    FEATURE_COMPAT,
    FEATURE_INCOMPAT,
    KNOWN_BLOB_FEATURES,
    MAGIC,
    MAXIMUM_BLOBS,
    MAXIMUM_CHUNK_SIZE,
    MAXIMUM_CHUNKS,
    MINIMUM_CHUNK_SIZE,
    OWN_BLOB_ID,
    SLOT,
    SUPERBLOCK,
    SUPERBLOCK_OFFSET,
    BlobFeatures,
    Compressor,
    Digester,
    Flags,
)
from drivers.nydus.tree import Blob

_KNOWN_FLAGS = sum(Flags)
_IMPLIED_FLAGS = (
    sum(COMPRESSOR_FLAGS.values()) | sum(DIGESTER_FLAGS.values()) | Flags.EXPLICIT_UID_GID | Flags.INLINED_CHUNK_DIGEST
)
_MAXIMUM_COMPRESSED = 1 << 40
_MAXIMUM_UNCOMPRESSED = 1 << 44
_CHUNK_INFO_V2 = BlobFeatures.ZRAN | BlobFeatures.BATCH | BlobFeatures.ENCRYPTED | BlobFeatures.CHUNK_INFO_V2


@dataclass(frozen=True, slots=True)
class Header:
    """Positions and sizes in bytes."""

    entries: int
    meta: int
    chunk_size: int
    compressor: Compressor
    digester: Digester
    extra_flags: Flags
    blobs: list[Blob]
    chunk_table: int
    chunk_table_size: int
    prefetch: tuple[int, ...]
    """nids."""


def decode_header(data: bytes, blob_id: str | None) -> Header:
    """Everything in front of the metadata area. ``blob_id`` replaces the placeholder of a layer's own blob.

    Raises:
        InvalidNydusError: names the first field that breaks a rule.
    """
    require(
        len(data) >= BLOCK and len(data) % BLOCK == 0, "bootstrap.size", f"{len(data)} is not a number of 4 KiB blocks"
    )
    (
        magic,
        checksum,
        compat,
        block_bits,
        ext_slots,
        root_nid,
        entries,
        _,
        _,
        blocks,
        meta_block,
        xattr_block,
        _,
        _,
        incompat,
        union,
        devices,
        device_slot,
        _,
    ) = SUPERBLOCK.unpack_from(data, SUPERBLOCK_OFFSET)
    for field, value, expected in (
        ("magic", magic, MAGIC),
        ("checksum", checksum, 0),
        ("feature_compat", compat, FEATURE_COMPAT),
        ("blkszbits", block_bits, 12),
        ("extslots", ext_slots, 0),
        ("xattr_blkaddr", xattr_block, 0),
        ("feature_incompat", incompat, FEATURE_INCOMPAT),
        ("union", union, 0),
        ("devt_slotoff", device_slot, DEVICES_OFFSET // DEVICE.size),
    ):
        require(value == expected, f"superblock.{field}", f"is {value:#x}, must be {expected:#x}")
    require(entries > 0, "superblock.inos", "is 0")
    require(entries <= len(data) // 12 + 1, "superblock.inos", f"{entries} entries do not fit into the file")
    require(devices <= MAXIMUM_BLOBS, "superblock.extra_devices", f"{devices} devices, {MAXIMUM_BLOBS} allowed")
    meta = meta_block * BLOCK
    root_end = meta + root_nid * SLOT + 64
    require(root_nid > 0 and root_end <= len(data), "superblock.root_nid", f"{root_nid} lies outside the file")

    flags, blob_table, blob_bytes, chunk_size, chunk_table, chunk_bytes, prefetch_at, prefetch_bytes, _, _ = (
        EXTENDED.unpack_from(data, EXTENDED_OFFSET)
    )
    compressor, digester = _algorithms(flags)
    require(
        chunk_size & (chunk_size - 1) == 0 and MINIMUM_CHUNK_SIZE <= chunk_size <= MAXIMUM_CHUNK_SIZE,
        "extended.chunk_size",
        f"{chunk_size} is not a power of two from 4 KiB to 16 MiB",
    )
    require(blob_bytes == BLOB.size * devices, "extended.blob_table_size", f"{blob_bytes} for {devices} devices")
    _require_table(data, "extended.blob_table", blob_table, blob_bytes, alignment=BLOCK)
    _require_table(data, "extended.chunk_table", chunk_table, chunk_bytes, alignment=BLOCK, unit=CHUNK.size)
    _require_table(data, "extended.prefetch_table", prefetch_at, prefetch_bytes, alignment=8, unit=4)
    blob_end = blob_table + blob_bytes
    require(
        not chunk_bytes or chunk_table >= blob_end or chunk_table + chunk_bytes <= blob_table,
        "extended.chunk_table",
        "overlaps the blob table",
    )
    require(
        not prefetch_bytes or prefetch_at >= blob_end or prefetch_at + prefetch_bytes <= blob_table,
        "extended.prefetch_table",
        "overlaps the blob table",
    )
    blobs = [
        _decode_blob(data[at : at + BLOB.size], index, chunk_size, blob_id)
        for index, at in enumerate(range(blob_table, blob_end, BLOB.size))
    ]
    ids = {blob.id for blob in blobs}
    require(len(ids) == len(blobs), "blob.id", "two blobs have the same id")
    _check_devices(data, blobs, blocks, blob_id)
    return Header(
        entries=entries,
        meta=meta,
        chunk_size=chunk_size,
        compressor=compressor,
        digester=digester,
        extra_flags=Flags(flags & ~_IMPLIED_FLAGS),
        blobs=blobs,
        chunk_table=chunk_table,
        chunk_table_size=chunk_bytes,
        prefetch=tuple(
            int.from_bytes(data[at : at + 4], "little") for at in range(prefetch_at, prefetch_at + prefetch_bytes, 4)
        ),
    )


def _require_table(data: bytes, field: str, offset: int, size: int, *, alignment: int, unit: int = 1) -> None:
    require(offset % alignment == 0, f"{field}_offset", f"{offset} is not a multiple of {alignment}")
    require(size % unit == 0, f"{field}_size", f"{size} is not a multiple of {unit}")
    require(offset + size <= len(data), f"{field}_size", f"ends at {offset + size}, behind the file's end")


def _algorithms(flags: int) -> tuple[Compressor, Digester]:
    require(flags & ~_KNOWN_FLAGS == 0, "extended.flags", f"unknown bits in {flags:#x}")
    compressors = [compressor for compressor, flag in COMPRESSOR_FLAGS.items() if flags & flag]
    digesters = [digester for digester, flag in DIGESTER_FLAGS.items() if flags & flag]
    require(len(compressors) == 1, "extended.flags", f"{len(compressors)} compressors in {flags:#x}, must be one")
    require(len(digesters) == 1, "extended.flags", f"{len(digesters)} digesters in {flags:#x}, must be one")
    return compressors[0], digesters[0]


def _decode_blob(record: bytes, index: int, chunk_size: int, blob_id: str | None) -> Blob:
    (
        raw_id,
        own_index,
        own_chunk_size,
        chunk_count,
        compressor,
        digester,
        features,
        compressed_size,
        uncompressed_size,
        toc_size,
        ci_compressor,
        ci_offset,
        ci_compressed_size,
        ci_uncompressed_size,
        toc_digest,
        meta_digest,
        meta_size,
        _,
        cipher,
        _,
    ) = BLOB.unpack(record)
    field = f"blob[{index}]"
    try:
        text = raw_id.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError as error:
        raise InvalidNydusError(f"{field}.id", "is not ASCII") from error
    if text == OWN_BLOB_ID and blob_id is not None:
        text = blob_id
    require(len(text) == 64, f"{field}.id", f"has {len(text)} characters, must be 64")
    require(own_index == index, f"{field}.index", f"is {own_index}")
    require(
        own_chunk_size == chunk_size, f"{field}.chunk_size", f"{own_chunk_size} is not the superblock's {chunk_size}"
    )
    require(0 < chunk_count <= MAXIMUM_CHUNKS, f"{field}.chunk_count", f"is {chunk_count}")
    for name, value, known in (
        ("compressor", compressor, Compressor),
        ("ci_compressor", ci_compressor, Compressor),
        ("digester", digester, Digester),
    ):
        require(value in set(known), f"{field}.{name}", f"unknown algorithm {value}")
    require(cipher in {0, 1, 2}, f"{field}.cipher", f"unknown cipher {cipher}")
    require(features & ~KNOWN_BLOB_FEATURES == 0, f"{field}.features", f"unknown bits in {features:#x}")
    require(features & BlobFeatures.ALIGNED != 0, f"{field}.features", "lack ALIGNED")
    require(compressed_size <= _MAXIMUM_COMPRESSED, f"{field}.compressed_size", f"is {compressed_size}")
    require(0 < uncompressed_size <= _MAXIMUM_UNCOMPRESSED, f"{field}.uncompressed_size", f"is {uncompressed_size}")
    require(
        0 < ci_compressed_size <= ci_uncompressed_size,
        f"{field}.ci_compressed_size",
        f"{ci_compressed_size} for {ci_uncompressed_size} bytes of chunk information",
    )
    if features & _CHUNK_INFO_V2:
        require(ci_uncompressed_size >= 24 * chunk_count, f"{field}.ci_uncompressed_size", f"is {ci_uncompressed_size}")
    else:
        require(ci_uncompressed_size == 16 * chunk_count, f"{field}.ci_uncompressed_size", f"is {ci_uncompressed_size}")
    return Blob(
        id=text,
        chunk_size=chunk_size,
        chunk_count=chunk_count,
        compressor=compressor,
        digester=digester,
        features=features,
        compressed_size=compressed_size,
        uncompressed_size=uncompressed_size,
        ci_compressor=ci_compressor,
        ci_offset=ci_offset,
        ci_compressed_size=ci_compressed_size,
        ci_uncompressed_size=ci_uncompressed_size,
        toc_size=toc_size,
        toc_digest=toc_digest,
        meta_digest=meta_digest,
        meta_size=meta_size,
    )


def _check_devices(data: bytes, blobs: list[Blob], blocks: int, blob_id: str | None) -> None:
    end = len(data)
    for index, blob in enumerate(blobs):
        raw_id, device_blocks, mapped, _ = DEVICE.unpack_from(data, DEVICES_OFFSET + DEVICE.size * index)
        device_id = raw_id.rstrip(b"\0")
        expected = {blob.id.encode()} | ({OWN_BLOB_ID.encode()} if blob.id == blob_id else set())
        require(device_id in expected, f"device[{index}].id", f"{device_id!r} is not the blob's")
        require(
            device_blocks == (blob.uncompressed_size + BLOCK - 1) // BLOCK and device_blocks > 0,
            f"device[{index}].blocks",
            f"{device_blocks} for {blob.uncompressed_size} bytes",
        )
        if mapped:  # old builders left it out
            require(mapped * BLOCK >= end, f"device[{index}].mapped_blkaddr", f"{mapped} lies inside what comes before")
            end = (mapped + device_blocks) * BLOCK
    if not blobs:
        require(blocks == 0, "superblock.blocks", f"is {blocks} without devices")
