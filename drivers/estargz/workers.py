"""The threads of eStargz layers, and what they make gzip members with."""

from __future__ import annotations

import asyncio

from drivers.estargz.batch import GzipBatch
from drivers.estargz.packer import Packer
from drivers.limits import DRIVER_MEMORY
from drivers.reencoding.members import MemberEncoder
from drivers.stargz import workers


class Workers(workers.Workers):
    """See :class:`drivers.stargz.workers.Workers`.

    Attributes:
        encoder: makes members of known matches, for all layers.
    """

    def __init__(self, *, threads: int | None = None, memory: int = DRIVER_MEMORY) -> None:
        super().__init__(threads=threads, memory=memory)
        self._packer = Packer()
        self.encoder = MemberEncoder()

    def make(self, batch: GzipBatch) -> asyncio.Future[GzipBatch]:
        """Queue a batch."""
        return self.compress(lambda: batch.make(self._packer.pack, self.encoder))
