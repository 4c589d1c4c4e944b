"""The parts of a blob behind its data: where they lie, and whether they are what the table of contents says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drivers.nydus.blob import toc
from drivers.nydus.blob.chunk_info import HEADER_SIZE
from drivers.nydus.blob.tar_header import SIZE as TAR_HEADER_SIZE
from drivers.nydus.blob.tar_header import decode_tar_header
from drivers.nydus.blob.toc import TocEntry, decode_toc, toc_size
from drivers.nydus.compression import decompress
from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.layout import BlobFeatures
from drivers.nydus.tree import Blob
from shared.oci.digest import Digest

DIGEST_SIZE: Final = 32


def check_tail(tail: bytes, record: Blob | None) -> None:
    """Check what a blob that is not pushed yet says of itself; but for its bootstrap's structures, which the image's has too.

    Args:
        tail: what follows the data.
        record: of the blob's data; None if there is none.

    Raises:
        InvalidNydusError: ``field`` names what is wrong.
    """
    data_size = max(0, record.ci_offset - TAR_HEADER_SIZE) if record is not None else 0
    entries = read_parts(tail, data_size)
    check_places(entries, record, data_size + len(tail) - toc_size(tail) - TAR_HEADER_SIZE)
    for entry in entries.values():
        if entry.name != toc.BLOB_DATA:
            start = entry.offset - data_size
            unpack(tail[start : start + entry.compressed_size], entry)


def read_parts(tail: bytes, data_size: int) -> dict[str, TocEntry]:
    """What follows a blob's data, walked as readers walk it: from the end, each header naming the part in front of it.

    Raises:
        InvalidNydusError: fields ``toc.*`` and ``tar_header.*``.
    """
    entries = decode_toc(tail[-TAR_HEADER_SIZE - toc_size(tail) : -TAR_HEADER_SIZE], data_size + len(tail))
    end = len(tail)
    names = []
    while end > 0:
        name, size = decode_tar_header(tail[max(0, end - TAR_HEADER_SIZE) : end])
        names.append(name)
        end -= TAR_HEADER_SIZE + size
    require(end == -data_size, "tar_header.size", f"the parts begin at {data_size + end}, must begin at 0")
    expected = [toc.NAME, toc.BOOTSTRAP, *(name for name in (toc.CHUNK_DIGESTS, toc.BLOB_META) if name in entries)]
    if data_size:
        expected.append(toc.BLOB_DATA)
    require(names == expected, "tar_header.name", f"the parts are {names[::-1]}")
    return entries


def check_places(entries: Mapping[str, TocEntry], record: Blob | None, end: int) -> None:
    """Every part lies where the parts before it end; ``end`` is where the table itself begins.

    Raises:
        InvalidNydusError: fields ``toc.*``.
    """
    require(toc.BOOTSTRAP in entries, "toc", f"has no {toc.BOOTSTRAP}")
    position = 0
    expected = []
    if record is not None:
        separate = bool(record.features & BlobFeatures.SEPARATE)
        data_size = record.ci_offset - TAR_HEADER_SIZE
        fits = record.ci_offset == 0 if separate else data_size > 0
        require(fits, "blob[0].ci_offset", f"{record.ci_offset} is not where the data ends")
        places = [
            (toc.BLOB_META, record.ci_offset, record.ci_compressed_size, record.ci_uncompressed_size),
            (toc.BLOB_META_HEADER, record.ci_offset + record.ci_compressed_size, HEADER_SIZE, HEADER_SIZE),
        ]
        position = record.ci_offset + record.ci_compressed_size + HEADER_SIZE + TAR_HEADER_SIZE
        if record.features & BlobFeatures.INLINED_CHUNK_DIGEST:
            size = DIGEST_SIZE * record.chunk_count
            places.append((toc.CHUNK_DIGESTS, position, size, size))
            position += size + TAR_HEADER_SIZE
        expected = [*(() if separate else (toc.BLOB_DATA,)), *(name for name, *_ in places)]
        for name, *place in places:
            found = entries.get(name)
            if found is None:
                raise InvalidNydusError("toc", f"has no {name}")
            for field, mine, theirs in zip(
                ("offset", "compressed_size", "size"),
                (found.offset, found.compressed_size, found.size),
                place,
                strict=True,
            ):
                require(mine == theirs, f"toc[{name}].{field}", f"is {mine}, must be {theirs}")
        data = entries.get(toc.BLOB_DATA)
        if data is not None and not separate:  # its offset is not looked at: builders before 2.3 wrote a wrong one
            require(
                data.compressed_size == data_size, f"toc[{data.name}].compressed_size", f"is {data.compressed_size}"
            )
            require(data.size == record.uncompressed_size, f"toc[{data.name}].size", f"is {data.size}")
    for name in entries:
        require(name in {*expected, toc.BOOTSTRAP}, "toc", f"has {name!r}, which the bootstrap does not know of")
    boot = entries[toc.BOOTSTRAP]
    require(boot.offset == position, f"toc[{boot.name}].offset", f"is {boot.offset}, must be {position}")
    boot_end = boot.offset + boot.compressed_size + TAR_HEADER_SIZE
    require(boot_end == end, f"toc[{boot.name}].compressed_size", f"ends at {boot_end}, the table begins at {end}")


def unpack(packed: bytes, entry: TocEntry) -> bytes:
    """A part's plain bytes, checked against its digest.

    Raises:
        InvalidNydusError: fields ``toc[name].*``.
    """
    plain = decompress(packed, entry.compressor, entry.size, f"toc[{entry.name}]")
    require(Digest.of(plain).hex == entry.digest.hex(), f"toc[{entry.name}].digest", "does not match")
    return plain
