"""The table of contents at a blob layer's end: 128 bytes an entry, then its tar header."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from drivers.nydus.blob import tar_header
from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.layout import Compressor

BLOB_DATA: Final = "image.blob"
BLOB_META: Final = "blob.meta"
BLOB_META_HEADER: Final = "blob.meta.header"
CHUNK_DIGESTS: Final = "blob.digest"
BOOTSTRAP: Final = "image.boot"
NAME: Final = "rafs.blob.toc"

_ENTRY: Final = Struct("<II16s32sQQQ48x")
_FLAG_OF_COMPRESSOR: Final = {Compressor.NONE: 1, Compressor.ZSTD: 2, Compressor.LZ4_BLOCK: 4}
_COMPRESSOR_OF_FLAG: Final = {flag: compressor for compressor, flag in _FLAG_OF_COMPRESSOR.items()}
_MAXIMUM_SIZE: Final = 4096
"""Bytes from the stream's end in which readers look for the table and its header."""


@dataclass(frozen=True, slots=True)
class TocEntry:
    """One part of the stream. ``digest`` is sha256 of the uncompressed bytes; offset and sizes in bytes."""

    name: str
    digest: bytes
    offset: int
    compressed_size: int
    size: int
    compressor: Compressor = Compressor.NONE


def encode_toc(entries: list[TocEntry]) -> bytes:
    """The entries followed by the table's tar header."""
    table = b"".join(
        _ENTRY.pack(
            _FLAG_OF_COMPRESSOR[entry.compressor],
            0,
            entry.name.encode(),
            entry.digest,
            entry.offset,
            entry.compressed_size,
            entry.size,
        )
        for entry in entries
    )
    return table + tar_header.encode_tar_header(NAME, len(table))


def toc_size(tail: bytes) -> int:
    """Bytes of the entries, from a stream's last 512 bytes.

    Raises:
        InvalidNydusError: there is no table of contents.
    """
    name, size = tar_header.decode_tar_header(tail[-tar_header.SIZE :])
    require(name == NAME, "toc.name", f"the last part is {name!r}")
    require(
        size > 0 and size % _ENTRY.size == 0 and size + tar_header.SIZE <= _MAXIMUM_SIZE,
        "toc.size",
        f"{size} bytes",
    )
    return size


def decode_toc(table: bytes, blob_size: int) -> dict[str, TocEntry]:
    """The entries by name.

    Raises:
        InvalidNydusError: fields ``toc.*``.
    """
    found: dict[str, TocEntry] = {}
    require(len(table) % _ENTRY.size == 0, "toc.size", f"{len(table)} bytes")
    for flags, _, raw_name, digest, offset, compressed_size, size in _ENTRY.iter_unpack(table):
        compressor = _COMPRESSOR_OF_FLAG.get(flags & 0xF)
        if compressor is None:
            raise InvalidNydusError("toc.flags", f"unknown compressor in {flags:#x}")
        name = raw_name.rstrip(b"\0").decode("ascii", "replace")
        require(name not in found, "toc.name", f"{name!r} twice")
        require(offset + compressed_size <= blob_size, f"toc[{name}].offset", "lies behind the blob's end")
        found[name] = TocEntry(name, digest, offset, compressed_size, size, compressor)
    return found
