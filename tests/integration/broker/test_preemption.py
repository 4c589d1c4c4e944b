"""A push that finds every slot taken by backfill is converted at once; the backfill is converted later, and once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from consumer.conversion import Converted
from drivers.api import Progress
from shared.messages import ConversionRequest
from shared.settings.model import Settings
from tests.integration.broker.conftest import Server
from tests.integration.broker.test_conformance import settled
from tests.unit.consumer.at_work import Scripted, at_work, events_of, settings_for
from tests.unit.consumer.support import converter, pushed, request, target
from tests.waiting import PATIENCE
from tests.watched_store import WatchedStore

_serial = itertools.count()


@pytest.fixture(params=["nats", "rabbitmq"])
def on(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Settings:
    """A consumer of one conversion at a time, on a real broker."""
    return settings_for(
        ICS_MAXIMUM_CONCURRENCY="1",
        ICS_BROKER__URL=servers(request.param).url,
        ICS_BROKER__PREFIX=f"preemption{next(_serial)}",
        ICS_BROKER__PUBLISH_TIMEOUT="30",
        ICS_TIMEOUTS='{"conversion": 60, "drain": 0.2}',
    )


async def test_a_push_preempts_a_backfill_which_ends_later_and_counts_once(on: Settings) -> None:
    store = WatchedStore()
    image = await pushed(store)
    real = converter(store)
    began = asyncio.Event()

    class Slow(Scripted):
        async def convert(self, request: ConversionRequest, progress: Progress, *, again: bool = False) -> Converted:
            if request.priority == "backfill" and not again:
                began.set()
                await asyncio.sleep(3600)
            return await real.convert(request, progress, again=again)

    async with at_work(Slow(lambda _: asyncio.sleep(0)), on) as (broker, _, _):
        await broker.publish(request(image, id="b" * 32, priority="backfill", target=target("v1_backfilled")))
        await began.wait()
        await broker.publish(request(image, id="a" * 32))
        told = await events_of(broker, 6, "started", "preempted", "succeeded", "failed", "retrying")
        assert [(event.kind, event.subject[0]) for event in told if event.kind != "started"] == [
            ("preempted", "b"),
            ("succeeded", "a"),
            ("succeeded", "b"),
        ]
        assert told[-1].data.attempt == 1
        await settled(broker, ready=0, in_flight=0, dead=0)


async def test_a_consumer_that_is_stopped_while_a_backfill_makes_room_hands_both_back(on: Settings) -> None:
    began, stopping, push_runs = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def reluctant(request: ConversionRequest) -> None:
        if request.priority == "live":
            push_runs.set()
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopping.set()
            await asyncio.sleep(0.5)  # uploads are cancelled at the registry

    async with at_work(Scripted(reluctant), on) as (broker, stop, task):
        await broker.publish(request(id="b" * 32, priority="backfill"))
        await began.wait()
        await broker.publish(request(id="a" * 32))
        await stopping.wait()
        stop.set()
        await task
        assert not push_runs.is_set()
        async with asyncio.timeout(PATIENCE), broker.deliveries(2) as deliveries:
            both = [await anext(deliveries), await anext(deliveries)]
            assert {delivery.request.id[0] for delivery in both} == {"a", "b"}
            assert [list(delivery.attempts) for delivery in both] == [[], []]
            for delivery in both:
                await delivery.ack()
        await settled(broker, ready=0, in_flight=0, dead=0)
