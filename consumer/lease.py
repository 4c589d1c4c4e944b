"""What goes on beside a conversion for the sake of its delivery: telling the broker of it, and hearing that it must stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from shared.background import beside
from shared.broker.api import Delivery
from shared.errors import IcsError

_log = logging.getLogger(__name__)


@asynccontextmanager
async def heartbeat(delivery: Delivery, interval: float) -> AsyncIterator[None]:
    """Extend ``delivery`` every ``interval`` seconds."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await delivery.extend()
            except IcsError as error:
                _log.debug("could not extend a delivery: %s", error.message)

    async with beside(beat(), "heartbeat of a delivery"):
        yield


@asynccontextmanager
async def expiring_when(stop: Callable[[], Awaitable[bool]], limit: asyncio.Timeout) -> AsyncIterator[None]:
    """Let ``limit`` expire as soon as ``stop`` says true: a conversion that must stop stops in one way only."""

    async def expire() -> None:
        if await stop():
            limit.reschedule(asyncio.get_running_loop().time())

    async with beside(expire(), "waiting for a conversion's early end"):
        yield
