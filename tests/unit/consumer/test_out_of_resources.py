"""A machine that lacks something costs no image an attempt, holds no delivery, and is worked on again when it does not."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from consumer.machine import Machine
from shared.broker.api import Broker
from shared.errors import SkippedError
from shared.exhausted import Resource
from shared.messages import ConversionRequest
from shared.telemetry.metrics import Metrics
from tests.dead_letters import dead
from tests.unit.consumer.at_work import Given, Scripted, at_work, events_of, idle, settings_for
from tests.unit.consumer.support import request
from tests.waiting import until

ONE_ATTEMPT = '{"maximum_attempts": 1}'
WANTS: list[tuple[Exception, Resource]] = [
    *(
        (OSError(number, os.strerror(number)), "disk")
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    ),
    *((OSError(number, os.strerror(number)), "files") for number in (errno.EMFILE, errno.ENFILE)),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
    (MemoryError(), "memory"),
    (RuntimeError("can't start new thread"), "threads"),
]
FULL = OSError(errno.ENOSPC, "No space left on device")


def numbered(number: int) -> ConversionRequest:
    return request(id=f"{number:032x}")


class Pauses:
    """Each lasts until it is ended."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self._end = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.begun.append(seconds)
        await self._end.wait()
        self._end.clear()

    def end(self) -> None:
        self._end.set()


async def short_pauses(_seconds: float) -> None:
    await asyncio.sleep(0.01)


async def published(broker: Broker, count: int) -> None:
    for number in range(count):
        await broker.publish(numbered(number))


async def nothing_in_hand(broker: Broker, ready: int) -> None:
    async def so() -> bool:
        stats = await broker.stats()
        return (stats.ready, stats.in_flight, stats.retrying, stats.consumers) == (ready, 0, 0, 0)

    await until(so)


@pytest.mark.parametrize(("error", "resource"), WANTS, ids=lambda value: str(value)[:30])
async def test_one_attempt_is_all_that_each_image_has_and_none_is_lost(error: Exception, resource: Resource) -> None:
    supplies, metrics, pauses = Given(), Metrics(process_metrics=False), Pauses()
    supplies.short.add(resource)
    machine = Machine(supplies, metrics, sleep=pauses)

    async def convert(_request: ConversionRequest) -> None:
        if supplies.short:
            raise error
        raise SkippedError("done")

    scripted = Scripted(convert)
    async with at_work(scripted, settings_for(ICS_RETRY=ONE_ATTEMPT), machine=machine) as (broker, _, _):
        await published(broker, 40)
        await until(lambda: pauses.begun == [5])
        await nothing_in_hand(broker, 40)
        tried = len(scripted.seen)
        pauses.end()
        await until(lambda: pauses.begun == [5, 10])
        await nothing_in_hand(broker, 40)
        assert len(scripted.seen) == tried, "the machine is asked, not the next image"
        supplies.short.clear()
        pauses.end()
        assert len(await events_of(broker, 40, "skipped")) == 40
        await idle(broker)
        told = [event async for event in broker.events.read(follow=False) if event.kind == "retrying"]
        assert {event.data.failure.code for event in told if event.data.failure} == {"local_resource"}
        assert {event.data.attempt for event in told} == {1}
        assert await dead(broker) == 0


async def test_one_is_taken_as_a_trial_and_after_its_success_all_slots_are_filled() -> None:
    machine = Machine(Given(), Metrics(process_metrics=False), sleep=short_pauses)
    gate, trial = asyncio.Event(), asyncio.Event()

    async def convert(_request: ConversionRequest) -> None:
        if len(scripted.seen) == 1:
            raise FULL
        if machine.on_trial:
            trial.set()
        await gate.wait()
        if scripted.most > 1 or not machine.on_trial:
            await until(lambda: scripted.most == 4)
        raise SkippedError("done")

    scripted = Scripted(convert)
    async with at_work(scripted, settings_for(ICS_MAXIMUM_CONCURRENCY="4"), machine=machine) as (broker, _, _):
        await published(broker, 1)
        await until(lambda: machine.on_trial)
        for number in range(1, 12):
            await broker.publish(numbered(number))
        await trial.wait()
        assert scripted.running == 1
        gate.set()
        await events_of(broker, 12, "skipped")
        assert scripted.most == 4


async def test_what_runs_goes_on_and_holds_its_slot() -> None:
    """Three of four go on over the pause; what is taken after it has one slot until they end."""
    machine = Machine(Given(), Metrics(process_metrics=False), sleep=short_pauses)
    gate = asyncio.Event()
    seen_with: list[int] = []

    async def convert(converted: ConversionRequest) -> None:
        if int(converted.id, 16) < 3:
            await gate.wait()
        elif len(scripted.seen) == 4:
            raise FULL
        else:
            seen_with.append(scripted.running)
        raise SkippedError("done")

    scripted = Scripted(convert)
    async with at_work(scripted, settings_for(ICS_MAXIMUM_CONCURRENCY="4"), machine=machine) as (broker, _, _):
        await published(broker, 3)
        await until(lambda: scripted.running == 3)
        for number in range(3, 20):
            await broker.publish(numbered(number))
        await events_of(broker, 17, "skipped")
        assert set(seen_with) == {4}
        gate.set()
        await events_of(broker, 20, "skipped")
        assert await dead(broker) == 0


async def test_what_waits_for_a_slot_is_handed_back_when_the_machine_lacks_something_again() -> None:
    pauses = Pauses()
    machine = Machine(Given(), Metrics(process_metrics=False), sleep=pauses)
    gate, fail = asyncio.Event(), asyncio.Event()

    async def convert(converted: ConversionRequest) -> None:
        if converted.id == numbered(0).id:
            await gate.wait()
        elif len(scripted.seen) == 2:
            raise FULL
        elif len(scripted.seen) == 4:
            await fail.wait()
            raise FULL
        raise SkippedError("done")

    scripted = Scripted(convert)
    async with at_work(scripted, settings_for(ICS_MAXIMUM_CONCURRENCY="2"), machine=machine) as (broker, _, _):
        await published(broker, 6)
        await until(lambda: len(pauses.begun) == 1)
        pauses.end()

        async def more_than_run() -> bool:
            return ((await broker.stats()).in_flight or 0) > 2 and len(scripted.seen) == 4

        await until(more_than_run)
        fail.set()
        await until(lambda: len(pauses.begun) == 2)

        async def one_held() -> bool:
            stats = await broker.stats()
            return (stats.ready, stats.in_flight) == (4, 1)

        await until(one_held)
        assert len(scripted.seen) == 4
        pauses.end()
        gate.set()
        await events_of(broker, 6, "skipped")


async def test_sigterm_while_it_pauses_drains_at_once() -> None:
    pauses = Pauses()
    machine = Machine(Given(), Metrics(process_metrics=False), sleep=pauses)

    async def convert(_request: ConversionRequest) -> None:
        raise FULL

    async with at_work(Scripted(convert), settings_for(), machine=machine) as (broker, stop, task):
        await published(broker, 9)
        await until(lambda: bool(pauses.begun))
        stop.set()
        await task
        await nothing_in_hand(broker, 9)


@asynccontextmanager
async def greedy(supplies: Given, **environ: str) -> AsyncIterator[tuple[Broker, Scripted, Machine]]:
    """Image 0 wants more than there is; the others are content."""
    machine = Machine(supplies, Metrics(process_metrics=False), sleep=short_pauses)

    async def convert(converted: ConversionRequest) -> None:
        if converted.id == numbered(0).id:
            raise FULL
        raise SkippedError("done")

    scripted = Scripted(convert)
    async with AsyncExitStack() as stack:
        broker, _, _ = await stack.enter_async_context(at_work(scripted, settings_for(**environ), machine=machine))
        yield broker, scripted, machine


async def test_an_image_that_is_too_big_for_the_disk_uses_its_attempts_up_and_stops_nobody_else() -> None:
    async with greedy(Given()) as (broker, scripted, machine):
        await published(broker, 20)
        assert len(await events_of(broker, 19, "skipped")) == 19
        (failed,) = await events_of(broker, 1, "failed")
        letter = await broker.dead_letters.get(failed.data.dead_letter_id)
        assert letter is not None
        assert [attempt.failure.code for attempt in letter.attempts] == ["local_resource"] * 3
        assert scripted.seen.count(numbered(0).id) == 4, "the first failure is nobody's"
        assert not machine.out


async def test_where_there_is_little_left_nobody_knows_whose_failure_it_is_until_the_outage_is_too_long() -> None:
    supplies = Given()
    supplies.scarce = True
    retry = '{"maximum_attempts": 2, "initial_delay": 0.02, "maximum_delay": 0.1, "maximum_outage": 0.5}'
    async with greedy(supplies, ICS_RETRY=retry) as (broker, scripted, _):
        await published(broker, 1)
        (failed,) = await events_of(broker, 1, "failed")
        assert failed.data.attempt == 2
        assert scripted.seen.count(numbered(0).id) > 3


async def test_another_error_of_the_system_is_no_want_of_anything() -> None:
    machine = Machine(Given(), Metrics(process_metrics=False))

    async def convert(_request: ConversionRequest) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    async with at_work(Scripted(convert), settings_for(), machine=machine) as (broker, _, _):
        await published(broker, 1)
        (failed,) = await events_of(broker, 1, "failed")
        assert (failed.data.failure.code, failed.data.attempt) == ("unclassified", 3)
        assert not machine.out
