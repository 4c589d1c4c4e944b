"""Batches whose members are gzip's."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from drivers.estargz.packing import digests
from drivers.reencoding.gzip_stream import Matches
from drivers.reencoding.members import MemberEncoder
from drivers.stargz.batch import Batch

Pack = Callable[[bytes, "array[int]", "array[int]", bytes], tuple["array[int]", bytes, bytes]]
""":func:`drivers.estargz.packing.pack`, here or elsewhere."""


@dataclass(slots=True)
class GzipBatch(Batch):
    """What makes its members."""

    source: int | None = None
    """Where in the source's tar the batch begins, if it is one stretch of it; what precedes byte 0 is ours."""
    matches: Matches | None = None
    """What the source's compressor found in it, if the members are to be made of that."""
    levels: bytes = b""
    """Of each member's compression otherwise."""

    @property
    def footprint(self) -> int:
        return 2 * self.size + (len(self.matches.records) if self.matches else 0)

    def make(self, pack: Pack, encoder: MemberEncoder) -> GzipBatch:
        """Hash every payload and make every member. Runs in a worker thread."""
        if self.matches is None:
            self.sizes, self.digests, self.members = pack(self.data, self.starts, self.payloads, self.levels)
            return self
        self.digests = digests(self.data, self.starts, self.payloads)
        self.sizes, self.members = encoder.members(self.data, self.starts, self.matches)
        self.matches = None
        return self
