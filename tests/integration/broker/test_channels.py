"""Channels of one connection: what ends one of them ends no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiormq.exceptions import ChannelNotFoundEntity

from shared.broker.amqp.link import AmqpLink
from shared.broker.amqp.topology import Topology
from tests.integration.broker.conftest import Server
from tests.waiting import PATIENCE

AT_ONCE = 30
"""Channels, of which every third is closed by RabbitMQ."""
ROUNDS = 100


@pytest.fixture
async def link(servers: Callable[[str], Server]) -> AsyncIterator[AmqpLink]:
    link = AmqpLink(
        servers("rabbitmq").url, Topology("channels", delivery_limit=1, events_max_age=60), timeout=PATIENCE
    )
    yield link
    await link.close()


async def test_channels_that_rabbitmq_closes_cost_those_opened_in_the_same_instant_nothing(link: AmqpLink) -> None:
    """Whatever their numbers, which come back after some two thousand."""

    async def closed_by_the_broker() -> None:
        channel = await link.open_bare_channel(PATIENCE)
        with pytest.raises(ChannelNotFoundEntity):
            await channel.queue_declare("no such queue", passive=True)

    async def short() -> None:
        channel = await link.open_bare_channel(PATIENCE)
        await channel.close()

    connection = await link.current()
    for _ in range(ROUNDS):
        await asyncio.gather(*(short() if number % 3 else closed_by_the_broker() for number in range(AT_ONCE)))
    assert await link.current() is connection
