"""Cancellation that client libraries swallow, or make up.

Until Python 3.12 ``asyncio.wait_for`` returns the result, and forgets that it was cancelled, when both happen in the same turn of
the loop; nats-py and aiormq wait for answers with it. aiormq turns a cancellation into an error of the connection when that was
lost before, and a lost connection into a cancellation that nobody asked for. A task that loses its cancellation runs on for ever,
and whoever waits for its end with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def honouring_cancellation() -> Iterator[None]:
    """Raises ``CancelledError`` at the end if the task was cancelled inside, whatever became of it there."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except asyncio.CancelledError as error:
        if error.args and task and task.cancelling() == before:
            raise ConnectionError(
                str(error.args[0])[:200]
            ) from error  # aiormq's way to say that the connection is lost
        raise
    except Exception as error:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


async def cancellable(operation: Awaitable[T]) -> T:
    """Await ``operation``, honouring cancellation."""
    with honouring_cancellation():
        return await operation


async def attempted(closing: Awaitable[object], seconds: float) -> None:
    """Let ``closing`` try for so long; then leave it, whatever it does with its cancellation. Its errors are nobody's."""
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
