"""Cancellation that client libraries swallow.

Until Python 3.12 ``asyncio.wait_for`` returns the result, and forgets that it was cancelled, when both happen in the same turn of
the loop; nats-py and aiormq wait for every answer with it. A task that loses its cancellation this way runs on for ever, and
whoever waits for its end with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def cancellable(operation: Awaitable[T]) -> T:
    """Await ``operation``; raises ``CancelledError`` also where ``operation`` swallowed it."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    result = await operation
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return result


async def attempted(closing: Awaitable[object], seconds: float) -> None:
    """Let ``closing`` try for so long; then leave it, whatever it does with its cancellation. Its errors are nobody's."""
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
