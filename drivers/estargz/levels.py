"""Which of libdeflate's levels each member takes: in the layer's order, by content alone, so on any machine the same.

Measured on Debian, Python and Node layers against the Go builder's level 9:

- Machine code and other data is 1 to 4 % smaller at libdeflate's 5 already, and so is anything of a few kilobytes.
- Text is where Go's long search pays. 6 equals it up to 16 KiB and 7 up to 256 KiB; in larger text 6 is up to 1 % larger, but 7
  takes half as long again. At 5 text is some 2 % larger and up to twice as fast: so it goes wherever what stands before it in
  the layer has saved as much. A byte of text costs half of what a byte of data saves, for it shrinks further; up to 16 KiB a
  quarter. Small members save a quarter.
- Noise (archives, pictures, keys) takes as long to search as anything else and does not shrink: it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deflate import gzip_compress

ADAPTIVE: Final = -1
"""The option's value that leaves the choice to :class:`Levels`."""
_STORED, _QUICK, _USUAL, _THOROUGH = 0, 5, 6, 7
_SMALL, _MEDIUM, _LARGE = 4 << 10, 16 << 10, 256 << 10
"""Bytes of a member."""
_DATA_SAVES, _SMALL_SAVES, _MEDIUM_COSTS, _TEXT_COSTS = 4, 1, 1, 2
"""At the quick level, against Go, a byte of a member: in fifths of a percent."""
_LOOKED_AT: Final = 1024
"""Bytes of file data in which a NUL tells data from text."""
_SAMPLED_FROM: Final = 32 << 10
"""Bytes of a member from which on it pays to try out how it shrinks."""
_SAMPLE, _SAMPLED_EVERY = 4 << 10, 64 << 10
"""Bytes."""
_SAVING: Final = range(_SAMPLE // 5, _SAMPLE * 3 // 4)
"""What a sample shrinks to in data at which 5 saves against Go: neither zeros nor half-packed pictures do."""


class Levels:
    """Give it every batch of a layer, in order.

    Args:
        level: 0 to 9 for every member, or :data:`ADAPTIVE`.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._credit = 0  # what the quick level has saved and not spent yet

    def choose(self, data: bytes, starts: Sequence[int], payloads: Sequence[int]) -> bytes:
        """One level a member, each a byte. Arguments as of :func:`drivers.estargz.packing.pack`."""
        if self._level != ADAPTIVE:
            return bytes((self._level,)) * len(starts)
        ends = [*starts[1:], len(data)]
        return bytes(map(self._of_member, [data] * len(ends), starts, payloads, ends))

    def _of_member(self, data: bytes, start: int, payload: int, end: int) -> int:
        size = end - start
        if size <= _SMALL:
            self._credit += _SMALL_SAVES * size
            return _QUICK
        sample = _sampled(memoryview(data)[start:end]) if size >= _SAMPLED_FROM else 0
        if sample >= _SAMPLE:
            return _STORED
        if data.find(0, start, start + min(payload, _LOOKED_AT)) >= 0:
            if sample in _SAVING:
                self._credit += _DATA_SAVES * size
            return _QUICK
        cost = size * (_MEDIUM_COSTS if size <= _MEDIUM else _TEXT_COSTS)
        if cost <= self._credit:
            self._credit -= cost
            return _QUICK
        return _THOROUGH if _MEDIUM < size <= _LARGE else _USUAL


def _sampled(member: memoryview) -> int:
    """Bytes that a sample shrinks to: the first that shrinks, of one every 64 KiB; none does in noise."""
    for at in range(_SAMPLE, len(member) - _SAMPLE + 1, _SAMPLED_EVERY):
        size = len(gzip_compress(member[at : at + _SAMPLE], 1))
        if size < _SAMPLE:
            return size
    return _SAMPLE
