"""Reads an eStargz blob by ranges."""

from __future__ import annotations

import zlib
from typing import ClassVar, Final

from drivers.estargz.layout import FOOTER_SIZE, TOC_NAME, parse_footer
from drivers.limits import LayerLimits
from drivers.stargz.reader import MAXIMUM_TOC, Reader
from drivers.tar.entry import TarEntry
from drivers.tar.parser import TarParser
from shared.errors import CorruptLayerError, LimitExceededError


class GzipMembers:
    """See :class:`drivers.stargz.reader.BlobFormat`."""

    name: ClassVar[str] = "eStargz"
    footer_size: ClassVar[int] = FOOTER_SIZE

    def table(self, footer: bytes, size: int) -> tuple[int, int]:
        offset = parse_footer(footer)
        if not 0 <= offset < size - FOOTER_SIZE:
            raise CorruptLayerError(f"the footer puts the table at byte {offset} of {size}")
        return offset, size - FOOTER_SIZE

    def text(self, table: bytes) -> memoryview:
        try:
            inflater = zlib.decompressobj(31)
            tar = inflater.decompress(table, MAXIMUM_TOC)
        except zlib.error as error:
            raise CorruptLayerError(f"the table's gzip member is damaged: {error}") from error
        if not inflater.eof:
            if len(tar) >= MAXIMUM_TOC:
                raise LimitExceededError(f"the table is larger than {MAXIMUM_TOC} bytes", limit="toc_size")
            raise CorruptLayerError("the table's gzip member is cut")
        events = list(TarParser(LayerLimits()).feed(tar))
        head = events[0] if events else None
        if not isinstance(head, TarEntry) or head.name != TOC_NAME or len(events) != 2:
            raise CorruptLayerError(f"the table's member does not hold {TOC_NAME} alone")
        text = events[1]
        assert isinstance(text, memoryview)  # noqa: S101  a whole tar was fed: the second event is the payload
        return text

    def data(self, members: bytes, size: int) -> bytes:
        try:
            return zlib.decompressobj(31).decompress(members, size)
        except zlib.error as error:
            raise ValueError(str(error)) from error


_READER: Final = Reader(GzipMembers())
read_toc = _READER.read_toc
read_file = _READER.read_file
validate = _READER.validate
