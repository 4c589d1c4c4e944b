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
    """Give it every member of a layer, in order.

    Args:
        level: 0 to 9 for every member, or :data:`ADAPTIVE`.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._credit = 0  # what the quick level has saved and not spent yet

    def choose(self, member: memoryview, payload: int) -> int:
        """The level of a member, ``payload`` bytes of which are file data, and come first."""
        if self._level != ADAPTIVE:
            return self._level
        size = len(member)
        if size <= _SMALL:  # as most are, in layers where this loop costs most
            self._credit += _SMALL_SAVES * size
            return _QUICK
        saves = _saves(member, payload)
        if saves is None:
            return _STORED
        if saves * size + self._credit >= 0:
            self._credit += saves * size
            return _QUICK
        return _THOROUGH if _MEDIUM < size <= _LARGE else _USUAL


def go_size(member: memoryview, payload: int) -> int:
    """About how many bytes the Go builder makes of a member at its level 9."""
    return len(gzip_compress(member, _QUICK)) + (_saves(member, payload) or 0) * len(member) // 500


def _saves(member: memoryview, payload: int) -> int | None:
    """What the quick level saves against Go, in fifths of a percent of the member's size; None: nothing makes it smaller."""
    size = len(member)
    if size <= _SMALL:
        return _SMALL_SAVES
    sample = _sampled(member) if size >= _SAMPLED_FROM else 0
    if sample >= _SAMPLE:
        return None
    if 0 in bytes(member[: min(payload, _LOOKED_AT)]):
        return _DATA_SAVES if sample in _SAVING else 0
    return -_MEDIUM_COSTS if size <= _MEDIUM else -_TEXT_COSTS


def _sampled(member: memoryview) -> int:
    """Bytes that a sample shrinks to: the first that shrinks, of one every 64 KiB; none does in noise."""
    for at in range(_SAMPLE, len(member) - _SAMPLE + 1, _SAMPLED_EVERY):
        size = len(gzip_compress(member[at : at + _SAMPLE], 1))
        if size < _SAMPLE:
            return size
    return _SAMPLE
