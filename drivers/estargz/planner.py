"""How each member of a layer is made: of the matches that the source's own compressor found, or compressed anew, at which level.

Matches that are known make a member in less than half the time. How large it becomes follows the source: from gzip's default level
(6) everything is smaller than what the Go builder makes at its 9; from Go's, which finds no match of three bytes, text is
and machine code is not; from fast compressors nothing is. So samples are made both ways, and what comes out too large is
compressed. All of it follows from the content, in the layer's order: on any machine the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drivers.estargz.batch import Batch
from drivers.estargz.levels import ADAPTIVE, Levels, is_data, quick_and_go_size
from drivers.estargz.packing import REENCODED
from drivers.reencoding.gzip_stream import GzipMatches, Matches
from drivers.reencoding.members import MemberEncoder

_SAMPLED_EVERY: Final = 32
"""One batch in so many is sampled; before, the 1st, 2nd, 3rd, 5th, 9th and 17th."""
_SAMPLE: Final = 512 << 10
"""Bytes from which on a sample is large enough. It ends with a member: what begins one has fewest matches."""
_SAMPLED_MEMBER: Final = 1 << 20
"""Bytes at most of a sample's last member."""


@dataclass(slots=True)
class _Sampled:
    """What the samples of a kind of content become."""

    reencoded: int = 0
    quick: int = 0
    """At the lowest level that is used, which makes data smaller than the Go builder does, and text larger."""
    go: int = 0
    """As the Go builder makes it, nearly; compression anew keeps to that."""


class Planner:
    """Give it every batch of a layer, in order.

    Args:
        level: 0 to 9 for every member, or :data:`~drivers.estargz.levels.ADAPTIVE`.
        encoder: makes the samples.

    Attributes:
        stream: to inflate a gzip source with; None: in any way.
    """

    def __init__(self, level: int, encoder: MemberEncoder) -> None:
        self.stream = GzipMatches() if level == ADAPTIVE else None
        self._levels = Levels(level)
        self._encoder = encoder
        self._data = _Sampled()
        self._text = _Sampled()
        self._seen = 0  # batches with matches

    def plan(self, batch: Batch) -> None:
        """Set its levels, and its matches if any member is to be made of them."""
        matches = self._matches(batch)
        data = text = False
        if matches:
            if _is_sampled(self._seen):
                self._sample(batch, matches)
            self._seen += 1
            data, text = self._reusable()
        levels = bytearray()
        for member, payload in batch.pieces():
            reused = (data if is_data(member, payload) else text) if data or text else False
            levels.append(REENCODED if reused else self._levels.choose(member, payload))
        batch.levels = bytes(levels)
        batch.matches = matches if REENCODED in levels else None

    def forget(self, end: int) -> None:
        """No batch will have anything of the source's tar in front of byte ``end``."""
        if self.stream:
            self.stream.forget(end)

    def _matches(self, batch: Batch) -> Matches | None:
        if self.stream is None or batch.source is None:
            return None
        matches = self.stream.matches(batch.source, batch.source + batch.size)
        return matches if matches.records else None

    def _reusable(self) -> tuple[bool, bool]:
        """Whether data, and whether text is made of matches, so that all of it together is no larger than the Go builder's."""
        data, text = self._data, self._text
        allowed = data.go + text.go
        if data.reencoded + text.reencoded <= allowed:
            return True, True
        if data.quick + text.reencoded <= allowed:
            return False, True
        return data.reencoded <= data.go, False

    def _sample(self, batch: Batch, matches: Matches) -> None:
        starts, ends = batch.starts, (*batch.starts[1:], batch.size)
        count = next((index for index, end in enumerate(ends, 1) if end >= _SAMPLE), len(ends))
        starts = starts[:count]
        data = batch.data[: min(ends[count - 1], starts[-1] + _SAMPLED_MEMBER)]
        sizes, _ = self._encoder.members(data, starts, b"\1" * count, matches, batch.source or 0)
        for (member, payload), size in zip(batch.pieces(), sizes, strict=False):
            sample = member[:_SAMPLED_MEMBER]
            sampled = self._data if is_data(sample, payload) else self._text
            quick, go = quick_and_go_size(sample, payload)
            sampled.reencoded += size
            sampled.quick += quick
            sampled.go += go


def _is_sampled(number: int) -> bool:
    """Whether this batch is, counted from 0."""
    return number % _SAMPLED_EVERY == 0 or (number < _SAMPLED_EVERY and number.bit_count() == 1)
