"""The fixed parts of a zstd:chunked blob, stargz-snapshotter's flavour (``estargz/zstdchunked`` of it)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, error
from typing import Final

from shared.errors import CorruptLayerError

ANNOTATION_MANIFEST_CHECKSUM: Final = "io.containers.zstd-chunked.manifest-checksum"
"""sha256 of the table as stored."""
ANNOTATION_MANIFEST_POSITION: Final = "io.containers.zstd-chunked.manifest-position"

_FRAME: Final = Struct("<4sI")
"""RFC 8878, 3.1.2: magic number, bytes that follow."""
_SKIPPABLE: Final = bytes.fromhex("502a4d18")
FRAME_HEADER_SIZE: Final = _FRAME.size
_FOOTER: Final = Struct("<QQQQ8s")
_CRFS: Final = 1
"""The only type of table."""
_MAGIC: Final = b"GnUlInUx"
FOOTER_SIZE: Final = FRAME_HEADER_SIZE + _FOOTER.size
"""Bytes of the last frame; readers ask for the last 40, without its header."""


@dataclass(frozen=True, slots=True)
class TablePosition:
    """Where the compressed table is."""

    offset: int
    """In the blob; the header of its frame stands before it."""
    size: int
    text_size: int
    """Of the JSON."""

    def __str__(self) -> str:
        """As the layer's annotation has it."""
        return f"{self.offset}:{self.size}:{self.text_size}:{_CRFS}"


def frame_header(size: int) -> bytes:
    """Of a skippable frame: decompressors pass over it and ``size`` bytes more.

    Raises:
        CorruptLayerError: more than a frame can hold.
    """
    try:
        return _FRAME.pack(_SKIPPABLE, size)
    except error:
        raise CorruptLayerError(f"a table of {size} bytes does not fit a skippable frame") from None


def frame_content(frame: bytes) -> bytes:
    """What a whole skippable frame holds.

    Raises:
        CorruptLayerError: ``frame`` is none.
    """
    if frame[:FRAME_HEADER_SIZE] != frame_header(len(frame) - FRAME_HEADER_SIZE):
        raise CorruptLayerError("the table does not stand in a skippable frame of its own")
    return frame[FRAME_HEADER_SIZE:]


def footer(table: TablePosition) -> bytes:
    """The blob's last frame."""
    content = _FOOTER.pack(table.offset, table.size, table.text_size, _CRFS, _MAGIC)
    return frame_header(len(content)) + content


def parse_footer(data: bytes) -> TablePosition:
    """Where the table is.

    Raises:
        CorruptLayerError: ``data`` is no footer of this flavour.
    """
    if len(data) == FOOTER_SIZE and data.startswith(frame_header(_FOOTER.size)):
        offset, size, text_size, kind, magic = _FOOTER.unpack_from(data, FRAME_HEADER_SIZE)
        if (kind, magic) == (_CRFS, _MAGIC):
            return TablePosition(offset, size, text_size)
    raise CorruptLayerError("the blob does not end in a zstd:chunked footer of stargz-snapshotter's")
