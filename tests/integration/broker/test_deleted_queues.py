"""An operator deletes queues and streams of a RabbitMQ in use: they are declared again, and nothing is published into nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import aio_pika
import pytest

from shared.broker.amqp import link
from shared.broker.amqp import work as amqp_work
from shared.broker.amqp.topology import Topology
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.events import conversion_event
from tests.dead_letters import dead
from tests.integration.broker.conftest import Server, settings_for
from tests.integration.broker.test_conformance import NO, attempt, one, request
from tests.waiting import PATIENCE

PREFIX = "deleted"


@pytest.fixture
def url(servers: Callable[[str], Server]) -> str:
    return servers("rabbitmq").url


@pytest.fixture
async def broker(url: str, tmp_path: Path) -> AsyncIterator[Broker]:
    async with asyncio.timeout(2 * PATIENCE), open_broker(settings_for(url, PREFIX, tmp_path)) as broker:
        yield broker


async def _delete(url: str, name: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(f"{PREFIX}.{name}")


@pytest.mark.parametrize("lane", ["live", "backfill"])
async def test_a_consumer_goes_on_with_a_work_queue_that_was_deleted(broker: Broker, url: str, lane: str) -> None:
    name = "conversions" if lane == "live" else "conversions.backfill"
    async with broker.deliveries(5) as deliveries:
        await broker.publish(request(1, priority=lane))
        first = await anext(deliveries)
        waiting = asyncio.ensure_future(anext(deliveries))
        await _delete(url, name)
        await broker.publish(request(2, priority=lane))
        second = await waiting
        assert (first.request.id, second.request.id) == (request(1).id, request(2).id)
        await second.ack()


@pytest.mark.parametrize("lane", ["live", "backfill"])
async def test_a_consumer_goes_on_with_a_work_queue_that_was_declared_again_before_it_was_told(
    broker: Broker, url: str, tmp_path: Path, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_work, "RENEW", 1.0)
    chosen = settings_for(url, PREFIX, tmp_path).broker
    topology = Topology(PREFIX, chosen.delivery_limit, chosen.events_max_age)
    async with await aio_pika.connect(url) as connection, broker.deliveries(5) as deliveries:
        channel = await connection.channel()
        await broker.publish(request(1, priority=lane))
        await (await anext(deliveries)).ack()
        waiting = asyncio.ensure_future(anext(deliveries))
        await channel.queue_delete(topology.lane("live" if lane == "live" else "backfill"))
        await topology.declare(channel)
        await broker.publish(request(2, priority=lane))
        second = await waiting
        assert second.request.id == request(2).id
        await second.ack()


@pytest.mark.parametrize(("name", "delay"), [("conversions", 0), ("conversions.retry.1", 1)])
async def test_a_message_to_a_queue_that_was_deleted_is_kept(broker: Broker, url: str, name: str, delay: float) -> None:
    await broker.check_health()
    await _delete(url, name)
    await broker.publish(request(3), delay=delay)
    delivery = await one(broker)
    assert delivery.request.id == request(3).id
    await delivery.ack()


async def test_a_loss_is_told_once_however_many_publish_meanwhile(
    broker: Broker, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.check_health()
    await _delete(url, "conversions")
    await asyncio.gather(*(broker.publish(request(number)) for number in range(20)))
    async with broker.deliveries(20) as deliveries:
        for _ in range(20):
            await (await anext(deliveries)).ack()
    assert [record.name for record in caplog.records if "a queue is missing" in record.getMessage()] == [link.__name__]


async def test_a_dead_letter_outlives_that_the_queue_was_deleted(broker: Broker, url: str) -> None:
    await broker.publish(request(4))
    delivery = await one(broker)
    await _delete(url, "conversions.dead")
    assert not await dead(broker)
    await _delete(url, "conversions.dead")
    await delivery.dead_letter(NO, attempt())
    assert await dead(broker) == 1


async def test_readers_and_writers_go_on_with_an_event_stream_that_was_deleted(broker: Broker, url: str) -> None:
    events = [conversion_event("requested", request(number)) for number in range(3)]
    async with aclosing(broker.events.read()) as reading:
        await broker.events.publish(*events[:2])
        assert [(await anext(reading)).subject for _ in range(2)] == [event.subject for event in events[:2]]
        waiting = asyncio.ensure_future(anext(reading))
        await _delete(url, "events")
        await broker.events.publish(events[2])
        assert (await waiting).subject == events[2].subject
