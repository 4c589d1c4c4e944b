"""The member that holds an eStargz layer's table of contents."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from drivers.estargz.layout import GZIP_HEADER, TOC_NAME, regular_header
from drivers.stargz.toc import SEGMENT

_LEVEL: Final = 4
_WINDOW_BITS: Final = 12
"""4 KiB, a dozen lines."""
_MEMORY_LEVEL: Final = 7


@dataclass(frozen=True, slots=True)
class FinishedToc:
    """The TOC member's pieces and digests."""

    member: list[bytes]
    """One whole gzip member when joined: tar header, JSON, padding and the end of the archive."""
    digest: str
    """``sha256:`` of the JSON."""
    padded_size: int
    """Bytes that the member inflates to."""


class DeflatedSegments:
    """The TOC member's own body, a segment at a time: each ends at a byte boundary."""

    def compress(self, text: bytes) -> bytes:
        return _deflate(text)

    def inflate(self, segments: Iterable[bytes]) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-15)
        for segment in segments:
            data = segment
            while data:
                yield inflater.decompress(data, SEGMENT)
                data = inflater.unconsumed_tail
        yield inflater.flush()


def toc_member(segments: list[bytes], size: int, diff: Any) -> FinishedToc:
    """Around ``size`` bytes of JSON; ``diff`` (a hash of the whole uncompressed layer) takes the member's bytes."""
    header = regular_header(TOC_NAME, size)
    end = bytes(-size % 512 + 1024)
    digest = hashlib.sha256()
    crc = zlib.crc32(header)
    diff.update(header)
    for piece in DeflatedSegments().inflate(segments):
        digest.update(piece)
        diff.update(piece)
        crc = zlib.crc32(piece, crc)
    diff.update(end)
    crc = zlib.crc32(end, crc)
    padded_size = len(header) + size + len(end)
    trailer = crc.to_bytes(4, "little") + (padded_size & 0xFFFFFFFF).to_bytes(4, "little")
    member = [GZIP_HEADER, _deflate(header), *segments, _deflate(end, last=True), trailer]
    return FinishedToc(member, f"sha256:{digest.hexdigest()}", padded_size)


def _deflate(data: bytes, *, last: bool = False) -> bytes:
    """Raw deflate that can stand between others: nothing refers back beyond it, and it ends at a byte boundary.

    The filtered strategy takes no short matches: among hex digests they cost more than they save (a tenth of the table). What
    repeats stands in the lines just before, and a search in these alone is half as long again as fast.
    """
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_FILTERED)
    return deflater.compress(data) + deflater.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
