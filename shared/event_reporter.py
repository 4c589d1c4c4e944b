"""Telling the event stream, without ever holding up an answer, a conversion or its acknowledgement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat

from shared.background import beside
from shared.broker.api import EventStream
from shared.errors import IcsError, TransientError
from shared.events import ConversionEvent
from shared.telemetry.metrics import Metrics

CAPACITY = 2000
"""Events that wait while the broker is away; progress is dropped first, since newer progress follows."""
TOGETHER = 500
"""Events that are published at once when many wait."""
PACE = 0.05
"""Seconds from one publish to the next: what is told meanwhile goes together, at a small part of the cost."""
PAUSES = (0.5, 2.0, 5.0)
"""Seconds between the tries, the last of them again and again."""
KEPT = 3600.0
"""Seconds for which events are tried again; then they are dropped and counted. A broker with an alarm takes no event, and yet the
acknowledgements of conversions, whose end nobody would ever hear of."""
FLUSH = 5.0
"""Seconds that the last events get, of a conversion and of a process."""
_log = logging.getLogger(__name__)


class EventReporter:
    """A bounded queue in front of the stream."""

    def __init__(
        self, stream: EventStream, metrics: Metrics, listeners: Sequence[Callable[[ConversionEvent], None]]
    ) -> None:
        self._stream = stream
        self._metrics = metrics
        self._listeners = listeners
        self._queue: asyncio.Queue[ConversionEvent] = asyncio.Queue(CAPACITY)
        self._queued = self._over = 0
        """Events that were queued, and those of them that were published or dropped."""
        self._passed = asyncio.Condition()
        self._hurry = asyncio.Event()
        self._failing = False

    def tell(self, event: ConversionEvent) -> None:
        """Queue ``event``; never waits, never raises."""
        for listener in self._listeners:
            listener(event)
        if event.kind == "progress" and self._queue.qsize() > CAPACITY // 2:
            return
        try:
            self._queue.put_nowait(event)
            self._queued += 1
        except asyncio.QueueFull:
            self._metrics.event_dropped()

    async def published(self) -> None:
        """Wait, not for long, until the stream has what was told so far; not at all while it takes nothing."""
        if self._failing:
            return
        queued = self._queued
        self._hurry.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH), self._passed:
                await self._passed.wait_for(lambda: self._over >= queued or self._failing)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EventReporter]:
        """Publish in the background; at the end, what waits is still sent, for a while."""
        async with beside(self._run(), "publishing events"):
            try:
                yield self
            finally:
                try:
                    async with asyncio.timeout(FLUSH):
                        await self._queue.join()
                except TimeoutError:
                    _log.warning("%d events were not published", self._queue.qsize())

    async def _run(self) -> None:
        loop, published = asyncio.get_running_loop(), float("-inf")
        while True:
            events = [await self._queue.get()]
            if (pause := published + PACE - loop.time()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._hurry.wait()
            self._hurry.clear()
            published = loop.time()
            while len(events) < TOGETHER and not self._queue.empty():
                events.append(self._queue.get_nowait())
            try:
                await self._publish(events)
            finally:
                for _ in events:
                    self._queue.task_done()
                self._over += len(events)
                await self._tell_waiting()

    async def _tell_waiting(self) -> None:
        async with self._passed:
            self._passed.notify_all()

    async def _publish(self, events: Sequence[ConversionEvent]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for pause in chain((0, *PAUSES), repeat(PAUSES[-1])):
            await asyncio.sleep(pause)
            try:
                await self._stream.publish(*events)
            except IcsError as error:
                self._failing = True
                await self._tell_waiting()
                if not isinstance(error, TransientError) or loop.time() - began > KEPT:
                    break
                events = [event for event in events if event.kind != "progress"]
                if not events:
                    return
            else:
                self._failing = False
                return
        for _ in events:
            self._metrics.event_dropped()
