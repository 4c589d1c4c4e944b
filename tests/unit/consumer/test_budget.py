"""Shares of memory are never overdrawn, handed out in order, and given back however a holder ends."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from consumer.budget import MemoryBudget
from consumer.keyed_locks import KeyedLocks
from tests.waiting import PATIENCE


async def test_a_large_share_waits_and_is_not_overtaken() -> None:
    budget = MemoryBudget(10)
    order: list[str] = []

    async def hold(name: str, size: int, release: asyncio.Event) -> None:
        async with budget.share(size):
            order.append(name)
            await release.wait()

    first, rest = asyncio.Event(), asyncio.Event()
    rest.set()
    tasks = [asyncio.create_task(hold("small", 4, first))]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(hold("large", 10, rest)))
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(hold("late", 1, rest)))
    await asyncio.sleep(0)
    assert order == ["small"]
    first.set()
    await asyncio.gather(*tasks)
    assert order == ["small", "large", "late"]
    assert budget.used == 0


async def test_more_than_everything_gets_everything_alone() -> None:
    budget = MemoryBudget(10)
    async with budget.share(1000):
        assert budget.used == 10
    assert budget.used == 0


async def test_who_is_cancelled_while_waiting_holds_up_nobody() -> None:
    budget = MemoryBudget(10)
    async with budget.share(6):
        waiting = asyncio.create_task(_use(budget, 10))
        behind = asyncio.create_task(_use(budget, 4))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(behind, PATIENCE)
    assert budget.used == 0


async def test_who_is_cancelled_in_the_instant_of_admission_gives_back() -> None:
    budget = MemoryBudget(10)
    holder = budget.share(10)
    await holder.__aenter__()
    waiting = asyncio.create_task(_use(budget, 10))
    await asyncio.sleep(0)
    await holder.__aexit__(None, None, None)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert budget.used == 0
    await asyncio.wait_for(_use(budget, 10), PATIENCE)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30))
def test_the_limit_holds_whatever_comes_and_goes(uses: list[tuple[int, bool]]) -> None:
    async def run() -> None:
        budget = MemoryBudget(20)

        async def use(size: int) -> None:
            async with budget.share(size):
                assert 0 <= budget.used <= 20
                await asyncio.sleep(0)

        tasks = []
        for size, cancelled in uses:
            task = asyncio.create_task(use(size))
            tasks.append(task)
            await asyncio.sleep(0)
            if cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.used == 0

    asyncio.run(run())


async def test_one_key_one_holder_and_nothing_is_kept() -> None:
    locks = KeyedLocks()
    inside = 0

    async def enter(key: str) -> None:
        nonlocal inside
        async with locks.hold(key):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(enter("a") for _ in range(5)))
    assert locks._locks == {}


async def test_different_keys_do_not_wait_for_each_other() -> None:
    locks = KeyedLocks()
    async with locks.hold("a"), locks.hold("b"):
        pass


async def _use(budget: MemoryBudget, size: int) -> None:
    async with budget.share(size):
        pass
