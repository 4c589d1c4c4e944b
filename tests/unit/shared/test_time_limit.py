"""One timer for many blocks: who is late, who is not, and whose cancellation it is."""

from __future__ import annotations

import asyncio

import pytest

from shared.time_limit import TimeLimit


async def test_only_what_is_late_is_stopped() -> None:
    limit = TimeLimit(0.5)
    forever = asyncio.Event()

    async def block(*, late: bool) -> str:
        try:
            with limit():
                await (forever.wait() if late else asyncio.sleep(0))
        except TimeoutError:
            return "late"
        return "in time"

    first = asyncio.gather(block(late=True), block(late=False), block(late=True))
    await asyncio.sleep(0.1)
    second = asyncio.gather(block(late=False), block(late=True))
    assert list(await first) == ["late", "in time", "late"]
    assert list(await second) == ["in time", "late"]
    assert await block(late=True) == "late", "the timer is set again after all were over"


async def test_a_cancellation_is_the_callers_own() -> None:
    limit = TimeLimit(60)

    async def block() -> None:
        with limit():
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_inner_of_two_limits_leaves_the_outer_one_alone() -> None:
    inner, outer = TimeLimit(0.01), TimeLimit(60)
    with outer():
        with pytest.raises(TimeoutError), inner():
            await asyncio.Event().wait()
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_error_of_the_block_passes() -> None:
    with pytest.raises(ValueError, match="mine"), TimeLimit(60)():
        raise ValueError("mine")


async def test_what_is_over_is_not_kept() -> None:
    limit = TimeLimit(60)
    for _ in range(1000):
        with limit():
            pass
    assert len(limit) <= 1
