"""How many messages one subscription may hold, and how many of them may be backfill."""

from __future__ import annotations

import asyncio

from shared.messages import Priority


class Slots:
    """Counts what is held; live work may use every slot, backfill at most half (at least one), so that a push finds room.

    Args:
        total: the prefetch.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held: dict[Priority, int] = {"live": 0, "backfill": 0}
        self._changed = asyncio.Event()

    @property
    def held(self) -> int:
        return self._held["live"] + self._held["backfill"]

    @property
    def free(self) -> int:
        return max(0, self.total - self.held)

    @property
    def backfill_fits(self) -> bool:
        return self.free > 0 and self._held["backfill"] < max(1, self.total // 2)

    def occupy(self, lane: Priority) -> None:
        self._held[lane] += 1

    def vacate(self, lane: Priority) -> None:
        self._held[lane] -= 1
        self._changed.set()

    async def wait_free(self) -> None:
        """Return once a slot is free."""
        while not self.free:
            self._changed.clear()
            await self._changed.wait()
