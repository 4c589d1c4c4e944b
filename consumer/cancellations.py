"""What operators have cancelled, as this consumer knows it: looked up when a delivery comes, heard of while it is converted.

A cancellation is of one request id or of all that match a filter, and of what was published until then: what is replayed, pushed
or backfilled after it converts. A retry keeps its time of publishing and is cancelled with what it is a retry of.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from shared.background import beside
from shared.broker.api import Delivery, EventStream
from shared.broker.passed_over import PassedOver
from shared.errors import IcsError
from shared.events import ConversionEvent
from shared.messages import Attempt
from shared.request_filter import Described, matcher
from shared.telemetry.metrics import Metrics

CAPACITY = 10_000
"""Cancellations of single conversions that are remembered; the oldest go first."""
FILTERS = 1000
"""Filters that are remembered; the oldest go first. Each is as large for twenty thousand conversions as for one."""
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


@dataclass(frozen=True, slots=True)
class _OfAll(Cancellation):
    """That match."""

    statuses: frozenset[str]
    matches: Callable[[Described], bool]

    def covers(self, delivery: Delivery, began: datetime) -> bool:
        return (
            delivery.published_at <= self.time
            and self.matches(_Asked(delivery, self.time))
            and (not self.statuses or not self.statuses.isdisjoint(_statuses(delivery, began, self.time)))
        )


_Kept = TypeVar("_Kept", bound=Cancellation)


class Cancellations:
    """Args:
    stream: :attr:`shared.broker.api.Broker.cancellations`.
    keep: seconds after which a cancellation is forgotten: the stream's own retention.
    metrics: count what cannot be read.
    """

    def __init__(self, stream: EventStream, keep: float, metrics: Metrics) -> None:
        self._stream = stream
        self._passed_over = PassedOver("cancellations", metrics.event_passed_over)
        self._keep = timedelta(seconds=keep)
        self._known: OrderedDict[str, Cancellation] = OrderedDict()
        self._of_all: OrderedDict[str, _OfAll] = OrderedDict()
        self._caught_up = asyncio.Event()
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Cancellations]:
        """Read them, and every new one, for as long as the block lasts."""
        async with beside(self._follow(), "following cancellations"):
            yield self

    async def caught_up(self) -> None:
        """Wait for what was cancelled before this process began. A broker that cannot tell holds nothing up for long."""
        if self._caught_up.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._caught_up.wait()
        self._caught_up.set()

    def of(self, delivery: Delivery, began: datetime) -> Cancellation | None:
        """What cancels ``delivery``, which this consumer ``began`` to handle then, if anything does."""
        found = self._known.get(delivery.request.id)
        if found is not None and found.time >= delivery.published_at:
            return found
        return next((each for each in self._of_all.values() if each.covers(delivery, began)), None)

    async def heard(self, delivery: Delivery, began: datetime) -> None:
        """Return once ``delivery`` is cancelled."""
        async with self._news:
            await self._news.wait_for(lambda: self.of(delivery, began) is not None)

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
        reading = self._stream.read(since=since, follow=follow, passed_over=self._passed_over)
        async with aclosing(reading) as events:
            async for event in events:
                if event.kind == "cancelling":
                    await self._note(event)
                else:
                    self._passed_over.unknown(event.type)

    async def _note(self, event: ConversionEvent) -> None:
        if (where := event.data.where) is not None:
            self._of_all[event.id] = _OfAll(event.time, event.data.actor, where.statuses, matcher(where))
            self._forget(self._of_all, FILTERS)
        else:
            known = self._known.get(event.subject)
            if known is not None and known.time >= event.time:
                return
            self._known[event.subject] = Cancellation(event.time, event.data.actor)
            self._known.move_to_end(event.subject)
            self._forget(self._known, CAPACITY)
        async with self._news:
            self._news.notify_all()

    def _forget(self, kept: OrderedDict[str, _Kept], capacity: int) -> None:
        # What has just been noted, too, may have become too old while it was read.
        oldest = datetime.now(UTC) - self._keep
        while kept and (len(kept) > capacity or next(iter(kept.values())).time < oldest):
            kept.popitem(last=False)


class _Asked:
    """A delivery as a filter looks at it, and as it was ``at`` that time."""

    __slots__ = ("code", "created", "driver", "priority", "ref", "tag", "words")

    def __init__(self, delivery: Delivery, at: datetime) -> None:
        request = delivery.request
        failed = [(_end(attempt), attempt.failure.code) for attempt in delivery.attempts]
        if delivery.postponed is not None:  # a newer attempt forgets it
            failed.append(delivery.postponed)
        self.code = next((code for when, code in reversed(failed) if when <= at), "")
        self.words = request.words
        self.ref, self.tag = request.ref, request.source.tag or ""
        self.driver, self.priority = request.driver.type, request.priority
        self.created = request.requested_at.timestamp()


def _statuses(delivery: Delivery, began: datetime, at: datetime) -> Collection[str]:
    """What the status list may have shown for ``delivery`` at that time.

    Nobody told how it ended with an earlier consumer that vanished, was stopped or made room: then it may have been anything.
    """
    if began <= at:
        return ("converting",)
    if delivery.redelivered:
        return ("queued", "converting", "lost", "retrying")
    earlier = [attempt for attempt in delivery.attempts if attempt.started_at <= at]
    if not earlier:
        return ("queued",)
    return ("converting",) if at < _end(earlier[-1]) else ("retrying",)


def _end(attempt: Attempt) -> datetime:
    return attempt.started_at + timedelta(seconds=attempt.duration_seconds)
