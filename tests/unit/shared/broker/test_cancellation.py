from __future__ import annotations

import asyncio

import pytest

from shared.broker.cancellation import cancellable


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
