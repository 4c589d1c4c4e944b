"""Reads a zstd:chunked blob by ranges."""

from __future__ import annotations

from typing import ClassVar, Final

import zstandard

from drivers.inflate import ZSTD_WINDOW, Inflater
from drivers.limits import LayerLimits
from drivers.stargz.reader import MAXIMUM_TOC, Reader
from drivers.zstdchunked.layout import FOOTER_SIZE, FRAME_HEADER_SIZE, frame_content, parse_footer
from shared.errors import CorruptLayerError, LimitExceededError

_STEP: Final = 1 << 20


class ZstdMembers:
    """See :class:`drivers.stargz.reader.BlobFormat`."""

    name: ClassVar[str] = "zstd:chunked"
    footer_size: ClassVar[int] = FOOTER_SIZE

    def table(self, footer: bytes, size: int) -> tuple[int, int]:
        """The table's whole frame."""
        found = parse_footer(footer)
        start, end = found.offset - FRAME_HEADER_SIZE, found.offset + found.size
        if not 0 <= start < end <= size - FOOTER_SIZE:
            raise CorruptLayerError(f"the footer puts the table at bytes {start} to {end} of {size}")
        return start, end

    def text(self, table: bytes) -> bytes:
        content = frame_content(table)
        inflater = Inflater(LayerLimits(layer_size=MAXIMUM_TOC))
        try:
            text = b"".join((*inflater.feed(content), *inflater.finish()))
        except LimitExceededError as error:
            message = f"the table is larger than {MAXIMUM_TOC} bytes, or suspiciously compressed"
            raise LimitExceededError(message, limit="toc_size") from error
        if inflater.compression != "zstd":
            raise CorruptLayerError("the table is not compressed with zstd")
        return text

    def data(self, members: bytes, size: int) -> bytes:
        out = bytearray()
        try:
            with zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).stream_reader(members) as frame:
                while len(out) < size and (piece := frame.read(min(size - len(out), _STEP))):
                    out += piece
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        return bytes(out)


_READER: Final = Reader(ZstdMembers())
read_toc = _READER.read_toc
read_file = _READER.read_file
validate = _READER.validate
