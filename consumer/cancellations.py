"""What operators have cancelled, as this consumer knows it: looked up when a delivery comes, heard of while it is converted.

A cancellation is of one request id, and of what was published under it until then: what is replayed, pushed or backfilled after it
converts. A retry keeps its time of publishing and is cancelled with what it is a retry of.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.broker.api import Delivery, EventStream
from shared.errors import IcsError
from shared.events import ConversionEvent

CAPACITY = 10_000
"""Cancellations that are remembered; the oldest go first."""
PATIENCE = 5.0
"""Seconds that the first deliveries wait for what was cancelled before this process began; no longer, and none after them."""
AGAIN = 2.0
"""Seconds until a stream that cannot be read is read again."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cancellation:
    time: datetime
    """What was published until then is cancelled."""
    actor: str


class Cancellations:
    """Args:
    stream: :attr:`shared.broker.api.Broker.cancellations`.
    keep: seconds after which a cancellation is forgotten: the stream's own retention.
    """

    def __init__(self, stream: EventStream, keep: float) -> None:
        self._stream = stream
        self._keep = timedelta(seconds=keep)
        self._known: OrderedDict[str, Cancellation] = OrderedDict()
        self._caught_up = asyncio.Event()
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Cancellations]:
        """Read them, and every new one, for as long as the block lasts."""
        task = asyncio.create_task(self._follow(), name="follow-cancellations")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def caught_up(self) -> None:
        """Wait for what was cancelled before this process began. A broker that cannot tell holds nothing up for long."""
        if self._caught_up.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._caught_up.wait()
        self._caught_up.set()

    def of(self, delivery: Delivery) -> Cancellation | None:
        """What cancels ``delivery``, if anything does."""
        found = self._known.get(delivery.request.id)
        return found if found is not None and found.time >= delivery.published_at else None

    async def heard(self, delivery: Delivery) -> None:
        """Return once ``delivery`` is cancelled."""
        async with self._news:
            await self._news.wait_for(lambda: self.of(delivery) is not None)

    async def _follow(self) -> None:
        while True:
            try:
                if not self._caught_up.is_set():
                    await self._read(follow=False)
                    self._caught_up.set()
                await self._read(follow=True)
            except IcsError as error:
                _log.warning("cancellations cannot be read: %s", error.message)
            await asyncio.sleep(AGAIN)

    async def _read(self, *, follow: bool) -> None:
        since = datetime.now(UTC) - self._keep
        async with aclosing(self._stream.read(since=since, follow=follow)) as events:
            async for event in events:
                if event.kind == "cancelling":
                    await self._note(event)

    async def _note(self, event: ConversionEvent) -> None:
        known = self._known.get(event.subject)
        if known is not None and known.time >= event.time:
            return
        self._known[event.subject] = Cancellation(event.time, event.data.actor)
        self._known.move_to_end(event.subject)
        oldest = datetime.now(UTC) - self._keep  # the event itself may have become too old while it was read
        while self._known and (len(self._known) > CAPACITY or next(iter(self._known.values())).time < oldest):
            self._known.popitem(last=False)
        async with self._news:
            self._news.notify_all()
