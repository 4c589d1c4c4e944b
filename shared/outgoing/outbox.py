"""A bounded queue in front of somebody else's server: what waits is sent in order, with back-off, and never holds up the caller."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from shared.background import beside
from shared.errors import IcsError, PermanentError, TransientError
from shared.telemetry.metrics import Metrics

Item = TypeVar("Item")
CAPACITY = 1000
"""Items that wait at most; more are dropped and counted."""
ATTEMPTS = 8
FIRST_DELAY = 1.0
LONGEST_DELAY = 120.0
"""Seconds before the second attempt, which double with each, and the most that any is waited for."""
FLUSH = 5.0
"""Seconds that the last items get at the end."""
_log = logging.getLogger(__name__)


class Outbox(Generic[Item]):
    """Args:
    name: of the other side, for the log; holds no credential.
    send: delivers one item; ``TransientError`` means again later (after ``retry_after`` if it names one).
    metrics: counts deliveries, failures and drops.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Item], Awaitable[None]],
        metrics: Metrics,
        *,
        first_delay: float = FIRST_DELAY,
    ) -> None:
        self._name, self._send, self._metrics, self._first_delay = name, send, metrics, first_delay
        self._queue: asyncio.Queue[Item] = asyncio.Queue(CAPACITY)

    def put(self, item: Item) -> None:
        """Never waits, never raises."""
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self._metrics.notification("dropped")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send in the background; at the end, what waits gets a few more seconds."""
        async with beside(self._run(), f"sending to {self._name}"):
            try:
                yield
            finally:
                try:
                    async with asyncio.timeout(FLUSH):
                        await self._queue.join()
                except TimeoutError:
                    _log.warning("%s: notifications were not delivered before the end", self._name)

    async def _run(self) -> None:
        while True:
            item = await self._queue.get()
            try:
                await self._deliver(item)
            finally:
                self._queue.task_done()

    async def _deliver(self, item: Item) -> None:
        delay = self._first_delay
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._send(item)
            except IcsError as error:
                if isinstance(error, PermanentError) or attempt == ATTEMPTS:
                    _log.warning("%s: %s", self._name, error.message, extra={"code": error.code})
                    self._metrics.notification("failed")
                    return
                asked = error.retry_after if isinstance(error, TransientError) else None
                await asyncio.sleep(min(LONGEST_DELAY, asked or delay * (0.5 + random.random() / 2)))  # noqa: S311  jitter
                delay *= 2
            else:
                self._metrics.notification("delivered")
                return
