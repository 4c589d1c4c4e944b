"""Waiting for what comes about by itself: it is looked at again until it is so; one look, or one pause, may be too early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared.settings.model import Settings

PATIENCE = 60.0
"""Seconds that a test gives to what takes a fraction of one: its machine may be busy with ten other things."""


def patient(settings: Settings) -> Settings:
    """For a broker connection of a test's own: nobody waits for its answers as Harbor waits for an ingress'."""
    return settings.model_copy(update={"broker": settings.broker.model_copy(update={"publish_timeout": 30.0})})


async def until(holds: Callable[[], bool | Awaitable[bool]], within: float = PATIENCE) -> None:
    """Look until it holds.

    Raises:
        TimeoutError: it does not within ``within`` seconds.
    """
    async with asyncio.timeout(within):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)
