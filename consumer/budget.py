"""Shares of one process's memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LAYER_SHARE = 48 << 20
"""Bytes that one layer under conversion holds beside what its driver shares out itself: pieces on their way in, a batch that
fills, the two chunks of an upload."""


class MemoryBudget:
    """A semaphore in bytes, first come first served: a large share waits its turn and is not overtaken for ever.

    Args:
        limit: bytes; a share larger than all of it gets all of it, alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def share(self, size: int) -> AsyncIterator[None]:
        """Wait for ``size`` bytes, hold them, give them back."""
        size = min(size, self.limit)
        await self._acquire(size)
        try:
            yield
        finally:
            self.used -= size
            self._admit()

    async def _acquire(self, size: int) -> None:
        if not self._waiting and self.used + size <= self.limit:
            self.used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted and cancelled in the same instant
                self.used -= size
            else:
                self._waiting.remove((size, turn))
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self.used + self._waiting[0][0] <= self.limit:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self.used += size
                turn.set_result(None)
