"""Cancellation that client libraries swallow or make up, and work that it must not cut in two.

Until Python 3.12 ``asyncio.wait_for`` returns the result, and forgets that it was cancelled, when both happen in the same turn of
the loop; nats-py and aiormq wait for answers with it. aiormq turns a cancellation into an error of the connection when that was
lost before, and a lost connection into a cancellation that nobody asked for. A task that loses its cancellation runs on for ever,
and whoever waits for its end with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class honouring_cancellation:  # noqa: N801  used as a function; as a generator it would cost each publish several times as much
    """Raises ``CancelledError`` at the end if the task was cancelled inside, whatever became of it there."""

    __slots__ = ("_before", "_task")

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task else 0

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        cancelled = self._task is not None and self._task.cancelling() > self._before
        if isinstance(error, asyncio.CancelledError):
            if error.args and self._task and not cancelled:
                # aiormq's way to say that the connection is lost
                raise ConnectionError(str(error.args[0])[:200]) from error
        elif cancelled and (error is None or isinstance(error, Exception)):
            raise asyncio.CancelledError from error


async def cancellable(operation: Awaitable[T]) -> T:
    """Await ``operation``, honouring cancellation."""
    with honouring_cancellation():
        return await operation


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end even if the caller is cancelled meanwhile; the cancellation is raised afterwards.

    For what leaves a duplicate when it is half done: a settlement whose copy is confirmed and whose original is not acknowledged.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001, S110  the task's own; raised by result() below
            pass
    if cancelled is not None:
        task.exception()  # retrieved, so that asyncio does not log it
        raise cancelled
    return task.result()


async def attempted(closing: Awaitable[object], seconds: float) -> None:
    """Let ``closing`` try for so long; then leave it, whatever it does with its cancellation. Its errors are nobody's."""
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
