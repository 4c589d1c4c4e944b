"""The frames that end a zstd:chunked layer: its table of contents and the footer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from drivers.zstdchunked.frames import FramedSegments
from drivers.zstdchunked.layout import FRAME_HEADER_SIZE, TablePosition, footer, frame_header


@dataclass(frozen=True, slots=True)
class FinishedToc:
    """What ends the blob, and what the layer's annotations say of it."""

    frames: list[bytes]
    digest: str
    """``sha256:`` of the JSON."""
    checksum: str
    """``sha256:`` of the table as it is stored."""
    position: TablePosition


def toc_frames(segments: list[bytes], size: int, offset: int) -> FinishedToc:
    """Of ``size`` bytes of JSON in ``segments``, at ``offset`` of the blob."""
    digest, checksum = hashlib.sha256(), hashlib.sha256()
    for segment, text in zip(segments, FramedSegments().inflate(segments), strict=True):
        digest.update(text)
        checksum.update(segment)
    position = TablePosition(offset + FRAME_HEADER_SIZE, sum(map(len, segments)), size)
    frames = [frame_header(position.size), *segments, footer(position)]
    return FinishedToc(frames, f"sha256:{digest.hexdigest()}", f"sha256:{checksum.hexdigest()}", position)
