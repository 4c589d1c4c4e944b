"""What a test asks of a dead-letter queue."""

from __future__ import annotations

from shared.broker.api import Broker


async def dead(broker: Broker) -> int:
    """How many letters there are: they are read, where :class:`shared.broker.api.BrokerStats` may tell it a moment late."""
    return len([letter async for letter in broker.dead_letters.list()])
