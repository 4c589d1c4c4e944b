"""Claims on RabbitMQ: a queue for each key with one token in it, delivered to whoever holds the claim.

The queue has a single active consumer, the one that came first. It gets a token and never acknowledges it; when its channel or
connection ends, however it ends, RabbitMQ hands the token to the next. So those who wait are told, in their order, and nobody
asks again and again. Everyone brings a token: the first may die before it has, and only the active consumer is given any. The
queue goes with its last consumer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aiormq.exceptions import ChannelNotFoundEntity

from shared.broker.amqp.link import AmqpLink
from shared.broker.amqp.topology import Table
from shared.broker.cancellation import attempted, honouring_cancellation
from shared.broker.claims import RELEASE

TURN = 1.0
"""Seconds within which the token comes where nobody else was there; else somebody came in the same instant, and was first."""
_TRIES = 3
_ARGUMENTS: Table = {
    "x-queue-type": "classic",
    "x-single-active-consumer": True,
    "x-max-length": 1,  # tokens that nobody holds
    "x-expires": 60_000,  # milliseconds: of a queue whose first consumer died before it consumed
}


@dataclass(frozen=True, slots=True)
class _HeldClaim:
    channel: AbstractChannel

    async def release(self) -> None:
        await self.channel.close()


class AmqpClaims:
    """See :class:`shared.broker.transport.ClaimStore`.

    Args:
        link: of claims alone: what goes wrong with one must not end the deliveries' connection.
    """

    def __init__(self, link: AmqpLink) -> None:
        self._link = link

    async def acquire(self, key: str, patience: float) -> _HeldClaim | None:
        for _ in range(_TRIES):
            try:
                return await self._acquire(self._link.topology.claim(key), patience)
            except ChannelNotFoundEntity:  # its last consumer left between our two steps, and the queue with it
                continue
        raise ConnectionError("the claim's queue does not stay")

    async def _acquire(self, name: str, patience: float) -> _HeldClaim | None:
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def tell(ours: bool) -> None:
            if not turn.done():
                turn.set_result(ours)

        async def token(_message: AbstractIncomingMessage) -> None:
            tell(True)

        held = None
        channel = await self._link.open_channel(confirms=False)
        try:
            channel.close_callbacks.add(lambda *_: tell(False))
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(lambda _: tell(False))
            with honouring_cancellation():
                queue = await channel.declare_queue(name, durable=True, auto_delete=True, arguments=_ARGUMENTS)
                others = queue.declaration_result.consumer_count or 0
                if others and not patience:
                    return None
                await queue.consume(token)
                await channel.default_exchange.publish(aio_pika.Message(b""), name)
                await asyncio.wait((turn,), timeout=patience if others else max(patience, TURN))
            if not turn.done():
                return None
            if not turn.result():
                raise ConnectionError("the claim's queue is gone")
            held = _HeldClaim(channel)
            return held
        finally:
            tell(False)
            if held is None:
                await attempted(channel.close(), RELEASE)
