from __future__ import annotations

import asyncio
import contextlib

import pytest

from shared.broker.cancellation import attempted, cancellable, honouring_cancellation


async def swallowing(entered: asyncio.Event) -> str:
    """What ``asyncio.wait_for`` of Python 3.11 does when the answer and the cancellation meet."""
    entered.set()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "answer"
    raise AssertionError


async def test_a_swallowed_cancellation_is_raised() -> None:
    entered = asyncio.Event()
    task = asyncio.create_task(cancellable(swallowing(entered)))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_time_out_around_it_is_still_a_time_out() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await cancellable(swallowing(asyncio.Event()))


async def test_a_result_passes() -> None:
    assert await cancellable(asyncio.sleep(0, "answer")) == "answer"


async def test_a_cancellation_that_became_an_error_is_raised() -> None:
    entered = asyncio.Event()

    async def converting() -> None:
        entered.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError from None

    task = asyncio.create_task(cancellable(converting()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_stays_an_error() -> None:
    with pytest.raises(ConnectionError), honouring_cancellation():
        raise ConnectionError


async def test_what_does_not_end_is_left() -> None:
    began = asyncio.Event()

    async def never() -> None:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    await attempted(never(), 0.01)
    assert began.is_set()


async def test_a_cancellation_that_nobody_asked_for_is_a_lost_connection() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel("the stream is not there")
    with pytest.raises(ConnectionError, match="the stream is not there"):
        await cancellable(future)
