"""RabbitMQ with an alarm of its memory or disk reads nothing from who publishes: that is said at once, and ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.errors import TransientError
from shared.events import conversion_event
from tests.integration.broker.conftest import Server, settings_for
from tests.integration.broker.test_conformance import request
from tests.servers.rabbitmq import RabbitServer
from tests.waiting import PATIENCE, until


@asynccontextmanager
async def alarm(server: RabbitServer) -> AsyncIterator[None]:
    """Of its memory."""
    await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.000001")
    try:
        yield
    finally:
        await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.6")


async def tells_of_it(broker: Broker) -> bool:
    try:
        await broker.check_health()
    except TransientError as error:
        return "an alarm is set" in error.message
    return False


async def test_who_publishes_hears_of_an_alarm_and_goes_on_after_it(
    servers: Callable[[str], Server], tmp_path: Path
) -> None:
    server = cast("RabbitServer", servers("rabbitmq"))
    settings = settings_for(server.url, "alarm", tmp_path)
    event = conversion_event("started", request(1))
    async with (
        asyncio.timeout(3 * PATIENCE),
        open_broker(settings) as ingress,
        open_broker(settings) as consumer,
        consumer.deliveries(5) as deliveries,
    ):
        await ingress.publish(request(1))
        first = await anext(deliveries)
        await consumer.events.publish(event)
        async with alarm(server):
            # What is published first finds the alarm: RabbitMQ tells who publishes, and nobody else.
            finders = [asyncio.ensure_future(ingress.publish(request(2)))]
            finders.append(asyncio.ensure_future(consumer.events.publish(event)))
            for broker in (ingress, consumer):
                await until(partial(tells_of_it, broker))
            with pytest.raises(TransientError, match="an alarm is set"):
                await ingress.publish(request(3))
            await first.ack()
        for finder in finders:
            with contextlib.suppress(TransientError):
                await finder
        for broker in (ingress, consumer):
            await until(partial(healthy, broker))
        await ingress.publish(request(4))
        async for delivery in deliveries:  # the second may have come through: it waited on its way
            await delivery.ack()
            assert delivery.request.id != request(3).id
            if delivery.request.id == request(4).id:
                break
        assert (await ingress.stats()).ready == 0


async def healthy(broker: Broker) -> bool:
    with contextlib.suppress(TransientError):
        await broker.check_health()
        return True
    return False
