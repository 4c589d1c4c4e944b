"""The boundaries of a gzip stream's deflate blocks, where inflating can begin anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from drivers.reencoding.gzip_stream import GzipStream

WINDOW: Final = 32 << 10
"""Bytes that a deflate stream may refer back to."""
_EVERY_COMPRESSED: Final = 8 << 10
_EVERY_UNCOMPRESSED: Final = 32 << 10
"""Boundaries closer than both to the one before are passed over, so that windows take no more memory than the data."""


class Boundary(NamedTuple):
    """Between two deflate blocks. Positions in bytes."""

    compressed: int
    """Of the first byte not yet used at all."""
    uncompressed: int
    bits: int
    """Still unused, of the byte in front of it: 0 to 7."""
    byte: int
    """That byte; 0 if all of it is used."""
    member: int
    """Number of the gzip member."""
    first: bool
    """In front of the member's first block."""
    last: bool
    """Behind its last one."""
    window: bytes
    """What the stream may refer back to: up to 32 KiB."""


class GzipBlocks(GzipStream):
    """Any number of members, zero bytes after the last one; ``found`` gets the boundaries as they are passed.

    Which boundaries it gets depends on the stream alone, not on how the stream is cut into pieces.
    """

    def __init__(self, found: Callable[[Boundary], None]) -> None:
        super().__init__()
        self._found = found
        self._member = -1
        self._window = b""  # of the present member
        self._byte = 0  # in front of what the next call is given
        self._last = (0, 0)

    def _begun(self, offset: int) -> None:
        self._member += 1
        self._window = b""
        self._last = offset, self._position
        self._found(
            Boundary(offset, self._position, bits=0, byte=0, member=self._member, first=True, last=False, window=b"")
        )

    def _inflated(self, piece: bytes, data: bytes, start: int, end: int) -> None:
        for used, size, bits, final in self._inflater.block_ends():
            at = start + used
            compressed, uncompressed = self._offset + at, self._position + size
            before, after = self._last
            if compressed - before < _EVERY_COMPRESSED and uncompressed - after < _EVERY_UNCOMPRESSED and not final:
                continue
            self._last = compressed, uncompressed
            byte = (data[at - 1] if at else self._byte) if bits else 0
            window = self._window_at(piece, size)
            self._found(
                Boundary(
                    compressed, uncompressed, bits, byte, self._member, first=False, last=bool(final), window=window
                )
            )
        self._window = self._window_at(piece, len(piece))
        if end:
            self._byte = data[end - 1]

    def _window_at(self, piece: bytes, size: int) -> bytes:
        if size >= WINDOW:
            return piece[size - WINDOW : size]
        return (self._window + piece[:size])[-WINDOW:]
