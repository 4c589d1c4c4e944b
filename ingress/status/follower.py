"""Keeps the read model in step with the broker's event stream: the whole history first, then every new event."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from ingress.backfill.record import Backfills
from ingress.status.cancelling import note_cancelled
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.stored_event import StoredEvent, decode_stored
from shared.backfill.events import PROGRESS, STOP
from shared.broker.api import EventStream
from shared.broker.passed_over import PassedOver
from shared.errors import IcsError
from shared.events import TYPES, ConversionEvent
from shared.messages import DeadLetter
from shared.request_filter import RequestFilter
from shared.telemetry.metrics import Metrics

_QUIET = 2.0
"""Seconds without an event after which the history counts as rebuilt."""
_OVERLAP = timedelta(minutes=1)
"""Read again after a lost stream; the history knows duplicates."""
_TAKEN = 20_000
"""Events whose ids are kept, some 3 MB: what is read again beyond the overlap is known by them."""
_SWEEP = 15.0
"""Seconds between two looks for what is too old to keep, or to be under way still."""
_GRACE = 30.0
"""Seconds that the event of a dead letter has, which tells more than the letter does."""
_BREATH = 25
"""Events between two chances for webhooks: a long history must not make them wait."""

_log = logging.getLogger(__name__)


class Follower:
    """One task: ``await follower.run()`` until cancelled.

    Args:
        longest: seconds after which a conversion is under way no more, whatever was told of it.
    """

    def __init__(
        self,
        events: EventStream,
        history: History,
        backfills: Backfills,
        live: Live,
        metrics: Metrics,
        *,
        longest: float,
    ) -> None:
        self._events, self._history, self._backfills = events, history, backfills
        self._live, self._metrics, self._longest = live, metrics, longest
        self._taken: OrderedDict[str, None] = OrderedDict()
        """Ids of the newest events, but for progress."""
        self._passed_over = PassedOver("history", metrics.event_passed_over)
        self._started_at = time.time()
        self._last_received = time.monotonic()
        self._rebuilt = False

    @property
    def rebuilding(self) -> bool:
        """Whether the history is still being read for the first time: lists are not complete yet."""
        if not self._rebuilt:
            newest = self._history.last_event or 0
            self._rebuilt = newest >= self._started_at or time.monotonic() - self._last_received > _QUIET
        return not self._rebuilt

    def found(self, letter: DeadLetter) -> None:
        """``letter`` is in the dead-letter queue: it is its conversion's end, also where no event comes that tells of it."""
        if not self.rebuilding and time.time() - letter.died_at.timestamp() > _GRACE:
            buried = self._history.bury(letter)
            if buried is not None:
                self._live.changed(f"buried-{letter.id}", buried.id)

    async def run(self) -> None:
        """Follow for ever; a stream that fails is opened again with back-off."""
        self._started_at, self._last_received = time.time(), time.monotonic()
        delay = 0.5
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep())
            while True:
                newest = self._history.last_event
                # A clock that is ahead must not hide what the others tell.
                since = datetime.fromtimestamp(min(newest, time.time()), UTC) - _OVERLAP if newest else None
                try:
                    await self._read(since)
                    delay = 0.5
                except IcsError as error:
                    _log.warning("event stream lost: %s", error.message, extra={"code": error.code})
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30)

    async def _read(self, since: datetime | None) -> None:
        count = 0
        async with aclosing(self._events.bodies(since=since, follow=True)) as bodies:
            async for body in bodies:
                self._last_received = time.monotonic()
                for event in decode_stored(body, self._passed_over):
                    if since is None or event["time"] >= since or self._is_news(event):
                        await self._take(event)
                    count += 1
                    if count % _BREATH == 0:
                        await asyncio.sleep(0)

    def _is_news(self, event: StoredEvent) -> bool:
        """Whether an old event, read again with the overlap or told by a clock that is behind, is the latter."""
        return event["id"] not in self._taken and not event["type"].endswith(".progress")

    async def _take(self, event: StoredEvent) -> None:
        if not event["type"].endswith(".progress"):
            self._taken[event["id"]] = None
            if len(self._taken) > _TAKEN:
                self._taken.popitem(last=False)
        try:
            if event["type"] in TYPES:
                await self._apply(event)
            elif event["type"] in (PROGRESS, STOP):
                self._backfills.apply(ConversionEvent.model_validate(event))
            else:
                self._passed_over.unknown(event["type"])
        # A plan, a filter, options: nobody has looked into them.
        except (ValueError, TypeError, OverflowError) as error:
            self._passed_over.unreadable(error)

    async def _apply(self, event: StoredEvent) -> None:
        if (where := event["data"].get("where")) is not None:
            wanted = RequestFilter.model_validate(where)
            await note_cancelled(self._history, wanted, event["time"], event["data"].get("actor", ""))
            return
        changed = self._history.apply(event)
        if changed is not None and not self.rebuilding:
            self._live.changed(event["id"], changed.id)

    async def _sweep(self) -> None:
        while True:
            self._metrics.history(len(self._history))
            await asyncio.sleep(_SWEEP)
            self._history.expire()
            for lost in self._history.lose_sight(time.time() - self._longest):
                self._live.changed(f"lost-{lost.id}", lost.id)
