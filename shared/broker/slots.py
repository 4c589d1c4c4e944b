"""How many messages one subscription may hold, how many of them may be backfill, and which backfill makes room for a push."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.messages import Priority


@dataclass(eq=False, slots=True)
class Slot:
    """One message's place."""

    lane: Priority
    recalled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a live message needs the place."""


class Slots:
    """What is held, oldest first. Live work may use every slot, backfill at most half (at least one), so that most pushes find
    room; the next one recalls a backfill.

    Args:
        total: the prefetch.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held: list[Slot] = []
        self._changed = asyncio.Event()
        self.when_backfill_ends: Callable[[], None] = lambda: None
        """Called by :meth:`vacate`: the next may be taken at once."""

    @property
    def free(self) -> int:
        return max(0, self.total - len(self._held))

    @property
    def live(self) -> int:
        return len(self._held) - self.backfills

    @property
    def backfills(self) -> int:
        return sum(slot.lane == "backfill" for slot in self._held)

    @property
    def backfill_fits(self) -> bool:
        return self.free > 0 and self.backfills < max(1, self.total // 2)

    def occupy(self, lane: Priority) -> Slot:
        slot = Slot(lane)
        self._held.append(slot)
        return slot

    def vacate(self, slot: Slot) -> None:
        """Once or more often."""
        if slot in self._held:
            self._held.remove(slot)
            self._changed.set()
            if slot.lane == "backfill":
                self.when_backfill_ends()

    def recall(self) -> None:
        """If no slot is free, ask the youngest backfill for its own: it has the least to lose. One at a time."""
        if self.free or any(slot.recalled.is_set() for slot in self._held):
            return
        for slot in reversed(self._held):
            if slot.lane == "backfill":
                slot.recalled.set()
                return

    async def wait_free(self, seconds: float | None = None) -> None:
        """Return once a slot is free, or after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while not self.free:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
