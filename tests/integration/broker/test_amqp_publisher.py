"""Many publishes in one write: each has its own confirm, its own failure, and its own bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aiormq import Channel
from aiormq.exceptions import ChannelInvalidStateError, PublishError

from shared.broker.amqp.publisher import Publisher
from shared.broker.wire import UID, WireMessage
from tests.integration.broker.conftest import Server
from tests.waiting import PATIENCE

QUEUE = "publisher"


@pytest.fixture
async def channel(servers: Callable[[str], Server]) -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect(servers("rabbitmq").url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.declare_queue(QUEUE, exclusive=True)
        yield channel


async def _publisher(channel: AbstractChannel) -> Publisher:
    return Publisher(cast("Channel", await channel.get_underlay_channel()))


def _message(number: int, body: bytes = b"{}") -> WireMessage:
    return WireMessage(body, {UID: f"uid-{number}", "traceparent": "00-1"})


async def _bodies(channel: AbstractChannel, count: int) -> list[bytes]:
    queue = await channel.get_queue(QUEUE)
    return [(await queue.get(no_ack=True)).body for _ in range(count)]


async def test_all_of_one_turn_are_confirmed_in_order_whatever_their_size(channel: AbstractChannel) -> None:
    publisher = await _publisher(channel)
    bodies = [b"", b"small", b"x" * 400_000, *(b"%d" % number for number in range(50))]
    await asyncio.gather(*(publisher.publish(QUEUE, _message(number, body)) for number, body in enumerate(bodies)))
    assert await _bodies(channel, len(bodies)) == bodies


async def test_a_missing_queue_fails_its_own_publish_and_no_other(channel: AbstractChannel) -> None:
    publisher = await _publisher(channel)
    queues = [QUEUE, "no such queue", QUEUE]
    results = await asyncio.gather(
        *(publisher.publish(queue, _message(number)) for number, queue in enumerate(queues)), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), PublishError, type(None)]


async def test_the_librarys_own_publishes_may_come_between(channel: AbstractChannel) -> None:
    publisher = await _publisher(channel)

    async def library(number: int) -> None:
        await channel.default_exchange.publish(aio_pika.Message(b"%d" % number), QUEUE, mandatory=True)

    each = (publisher.publish(QUEUE, _message(n, b"%d" % n)) if n % 2 else library(n) for n in range(40))
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*each)
    assert sorted(await _bodies(channel, 40), key=int) == [b"%d" % number for number in range(40)]


async def test_who_stops_waiting_disturbs_nobody(channel: AbstractChannel) -> None:
    publisher = await _publisher(channel)
    tasks = [asyncio.create_task(publisher.publish(QUEUE, _message(number, b"%d" % number))) for number in range(9)]
    await asyncio.sleep(0)
    tasks[4].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [number for number, result in enumerate(results) if result is not None] == [4]
    assert await _bodies(channel, 8) == [b"%d" % number for number in range(9) if number != 4]


async def test_a_closed_channel_fails_who_publishes_and_who_waits(channel: AbstractChannel) -> None:
    publisher = await _publisher(channel)
    waiting = asyncio.create_task(publisher.publish(QUEUE, _message(1)))
    await asyncio.sleep(0)
    await channel.close()
    await asyncio.wait((waiting,), timeout=PATIENCE)
    assert waiting.done()
    with pytest.raises(ChannelInvalidStateError):
        async with asyncio.timeout(PATIENCE):
            await publisher.publish(QUEUE, _message(2))


async def test_a_message_arrives_as_the_library_would_have_sent_it(channel: AbstractChannel) -> None:
    await (await _publisher(channel)).publish(QUEUE, _message(1, b'{"a": 1}'))
    received = await (await channel.get_queue(QUEUE)).get(no_ack=True)
    assert received.body == b'{"a": 1}'
    assert received.headers == {UID: "uid-1", "traceparent": "00-1"}
    assert received.content_type == "application/json"
    assert received.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert received.message_id == "uid-1"
