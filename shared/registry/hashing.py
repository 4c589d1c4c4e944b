"""Hashing beside a transfer: in a thread (hashlib releases the GIL), in order, never more than one batch behind."""

from __future__ import annotations

import asyncio
import hashlib

from shared.oci.digest import Digest

_BATCH = 1 << 20
"""Bytes hashed by one call in a thread; smaller ones cost more in switching than in hashing."""


class ThreadedHash:
    """A hash that is fed in order by one thread at a time, so that the loop goes on while it computes."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self._hash = hashlib.new(algorithm)
        self._waiting: list[bytes | memoryview] = []
        self._bytes = 0
        self._running: asyncio.Future[None] | None = None
        self.algorithm = algorithm

    async def update(self, data: bytes | memoryview) -> None:
        """Take ``data``, which must not change until :meth:`digest`; returns at once unless hashing lags behind."""
        self._waiting.append(data)
        self._bytes += len(data)
        if self._bytes >= _BATCH:
            await self.flush()
            self._start()

    def _start(self) -> None:
        batch, self._waiting, self._bytes = self._waiting, [], 0
        self._running = asyncio.get_running_loop().run_in_executor(None, self._compute, batch)

    def _compute(self, batch: list[bytes | memoryview]) -> None:
        for data in batch:
            self._hash.update(data)

    async def flush(self) -> None:
        """Wait for the thread; what it works on must not change under it."""
        if self._running is not None:
            await asyncio.shield(self._running)
            self._running = None

    async def digest(self) -> Digest:
        await self.flush()
        self._start()
        await self.flush()
        return Digest(f"{self.algorithm}:{self._hash.hexdigest()}")
