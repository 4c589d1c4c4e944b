"""Keeps the read model in step with the broker's event stream: the whole history first, then every new event."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

from ingress.backfill.record import Backfills
from ingress.status.history import History
from ingress.status.live import Live
from shared.backfill_events import BACKFILL
from shared.broker.api import EventStream
from shared.errors import IcsError
from shared.telemetry.metrics import Metrics

_QUIET = 2.0
"""Seconds without an event after which the history counts as rebuilt."""
_OVERLAP = timedelta(minutes=1)
"""Read again after a lost stream; the history knows duplicates."""
_EXPIRE = 60.0
_BREATH = 25
"""Events between two chances for webhooks: a long history must not make them wait."""

_log = logging.getLogger(__name__)


class Follower:
    """One task: ``await follower.run()`` until cancelled."""

    def __init__(
        self, events: EventStream, history: History, backfills: Backfills, live: Live, metrics: Metrics
    ) -> None:
        self._events, self._history, self._backfills = events, history, backfills
        self._live, self._metrics = live, metrics
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

    async def run(self) -> None:
        """Follow for ever; a stream that fails is opened again with back-off."""
        self._started_at, self._last_received = time.time(), time.monotonic()
        delay = 0.5
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._expire())
            while True:
                newest = self._history.last_event
                since = datetime.fromtimestamp(newest, UTC) - _OVERLAP if newest else None
                try:
                    await self._read(since)
                    delay = 0.5
                except IcsError as error:
                    _log.warning("event stream lost: %s", error.message, extra={"code": error.code})
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30)

    async def _read(self, since: datetime | None) -> None:
        count = 0
        events = self._events.read(since=since, follow=True)
        try:
            async for event in events:
                self._last_received = time.monotonic()
                if event.type.startswith(BACKFILL):
                    self._backfills.apply(event)
                    continue
                changed = self._history.apply(event)
                if changed is not None and not self.rebuilding:
                    self._live.changed(event.id, changed.id)
                count += 1
                if count % _BREATH == 0:
                    await asyncio.sleep(0)
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    async def _expire(self) -> None:
        while True:
            self._metrics.history(len(self._history))
            await asyncio.sleep(_EXPIRE)
            self._history.expire()
