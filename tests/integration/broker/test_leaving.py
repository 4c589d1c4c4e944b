"""A consumer may leave and come back as often as its machine makes it: that counts against no message, and leaves nothing open."""

from __future__ import annotations

import pytest

from shared.broker.amqp.transport import AmqpTransport
from shared.broker.queue import QueueBroker
from tests.dead_letters import dead
from tests.integration.broker.conftest import DELIVERY_LIMIT, Kind
from tests.integration.broker.test_conformance import request, settled, taking


async def test_what_nobody_has_seen_when_a_consumer_leaves_was_not_delivered(kind: Kind) -> None:
    async with kind.connect() as broker:
        for number in (1, 2):
            await broker.publish(request(number))
        for _ in range(DELIVERY_LIMIT + 2):
            async with taking(broker, 2) as deliveries:
                seen = await anext(deliveries)
                if kind.name != "memory":  # which hands out what is asked for
                    await settled(broker, ready=0)
            await seen.release()
        async with taking(broker, 2) as deliveries:
            found = [await anext(deliveries), await anext(deliveries)]
            assert {each.request.id for each in found} == {request(1).id, request(2).id}
            assert not any(each.redelivered for each in found)
            for each in found:
                await each.ack()
        assert await dead(broker) == 0
        await settled(broker, ready=0, in_flight=0)


@pytest.mark.parametrize("kind", ["rabbitmq"], indirect=True)
async def test_no_channel_stays_open_for_what_is_settled_after_leaving(kind: Kind) -> None:
    async with kind.connect() as broker:
        assert isinstance(broker, QueueBroker)
        transport = broker._transport
        assert isinstance(transport, AmqpTransport)

        async def in_and_out() -> int:
            for priority in ("live", "backfill"):
                await broker.publish(request(priority=priority))
                async with taking(broker, 1) as deliveries:
                    delivery = await anext(deliveries)
                await delivery.ack()
            connection = transport._link._connection
            assert connection is not None
            assert connection.transport is not None
            channels = connection.transport.connection.channels
            return sum(channel is not None and not channel.is_closed for channel in channels.values())

        first = await in_and_out()
        for _ in range(5):
            assert await in_and_out() == first
