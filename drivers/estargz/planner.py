"""How the members of a batch are made: of the matches that the source's own compressor found, or compressed anew.

Matches that are known make a member in less than half the time. How large it becomes follows the source: of what gzip and Go
packed at their default levels (6) it is smaller than what the Go builder makes at its 9, of what fast compressors packed
larger. So samples are made both ways, and while matches give too much, batches are compressed. All of it follows from the
content, in the layer's order: on any machine the same.
"""

from __future__ import annotations

from itertools import islice, starmap
from typing import Final

from drivers.estargz.batch import GzipBatch
from drivers.estargz.levels import ADAPTIVE, Levels, go_size
from drivers.reencoding.gzip_stream import GzipMatches, Matches
from drivers.reencoding.members import MemberEncoder

_TINY: Final = 2 << 10
"""Bytes of a batch's members, on average, below which most matches reach beyond them: nothing is gained by keeping any, and
child processes pack them (:mod:`drivers.estargz.packer`)."""
_SAMPLED_EVERY: Final = 32
"""One batch in so many is sampled; before, the 1st, 2nd, 3rd, 5th, 9th and 17th."""
_SAMPLE: Final = 512 << 10
"""Bytes from which on a sample is large enough. It ends with a member: what begins one has fewest matches."""
_SAMPLED_MEMBER: Final = 1 << 20
"""Bytes at most of a sample's last member."""


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
        self._reencoded = 0  # bytes that the samples become
        self._allowed = 0  # and as the Go builder makes them, nearly, which is what compression anew keeps to
        self._seen = 0  # batches with matches

    def plan(self, batch: GzipBatch) -> None:
        """Set its matches, or its levels."""
        matches = self._matches(batch)
        if matches:
            if _is_sampled(self._seen):
                self._sample(batch, matches)
            self._seen += 1
            if self._reencoded <= self._allowed:
                batch.matches = matches
                return
        batch.levels = bytes(starmap(self._levels.choose, batch.pieces()))

    def forget(self, end: int) -> None:
        """No batch will have anything of the source's tar in front of byte ``end``."""
        if self.stream:
            self.stream.forget(end)

    def _matches(self, batch: GzipBatch) -> Matches | None:
        if self.stream is None or batch.source is None or batch.size < _TINY * len(batch.starts):
            return None
        matches = self.stream.matches(batch.source, batch.source + batch.size)
        return matches if matches.records else None

    def _sample(self, batch: GzipBatch, matches: Matches) -> None:
        starts, ends = batch.starts, (*batch.starts[1:], batch.size)
        count = next((index for index, end in enumerate(ends, 1) if end >= _SAMPLE), len(ends))
        starts = starts[:count]
        data = batch.data[: min(ends[count - 1], starts[-1] + _SAMPLED_MEMBER)]
        _, members = self._encoder.members(data, starts, matches)
        self._reencoded += len(members)
        for member, payload in islice(batch.pieces(), count):
            self._allowed += go_size(member[:_SAMPLED_MEMBER], payload)


def _is_sampled(number: int) -> bool:
    """Whether this batch is, counted from 0."""
    return number % _SAMPLED_EVERY == 0 or (number < _SAMPLED_EVERY and number.bit_count() == 1)
