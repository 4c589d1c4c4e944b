"""RabbitMQ under :class:`shared.broker.queue.QueueBroker`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import datetime
from time import monotonic
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel

from shared.broker.amqp.claims import AmqpClaims
from shared.broker.amqp.dead_letters import AmqpDeadLetters
from shared.broker.amqp.link import AmqpLink
from shared.broker.amqp.stream import PREFETCH, START, StreamDeletedError, stream_messages, stream_offset
from shared.broker.amqp.topology import RETRY_STEPS, Topology
from shared.broker.amqp.work import AmqpTaken, subscription
from shared.broker.api import BrokerStats
from shared.broker.event_stream import CLOCK_SKEW, EventReading
from shared.broker.transport import unavailable
from shared.broker.wire import WireMessage, encode_events
from shared.errors import TransientError
from shared.events import ConversionEvent
from shared.messages import Priority
from shared.settings.model import BrokerSettings

PUBLISH_AGAIN = 0.2
"""Seconds between the tries for an event, and twice that after each, up to a second."""
_log = logging.getLogger(__name__)


class AmqpEvents(EventReading):
    """See :class:`shared.broker.api.EventStream`."""

    def __init__(self, name: str, link: AmqpLink, reading: AmqpLink) -> None:
        self._name = name
        self._link = link
        self._reading = reading
        self._declared: object = None
        """The connection on which the stream was declared."""

    def refuse_if_blocked(self) -> None:
        """See :meth:`AmqpLink.refuse_if_blocked`: an alarm is known to who publishes, which a consumer does here first."""
        self._link.refuse_if_blocked()

    async def publish(self, *events: ConversionEvent) -> None:
        for body in encode_events(events):
            kind = "application/cloudevents-batch+json" if body.startswith(b"[") else "application/cloudevents+json"
            await self._publish_again(aio_pika.Message(body, content_type=kind))

    async def _publish_again(self, message: aio_pika.Message) -> None:
        """While another process declares the stream, RabbitMQ says that it is there, and closes the connection of whoever
        publishes to it: until it has started its writer, which takes a moment, or seconds where there is much to do.
        """
        began, pause = monotonic(), PUBLISH_AGAIN
        while True:
            try:
                return await self._publish(message)
            except TransientError as error:
                self._declared = None  # it may be that somebody deleted it
                if monotonic() + pause - began > self._link.timeout:
                    raise
                _log.info("an event is published again: %s", error.message)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    async def _publish(self, message: aio_pika.Message) -> None:
        if self._declared is not await self._link.current():
            async with self._link.channel() as channel:
                await self._link.topology.declare_stream(channel, self._name)
            self._declared = await self._link.current()
        await self._link.call(
            lambda channel: channel.default_exchange.publish(message, self._name, timeout=self._link.timeout)
        )

    async def bodies(self, *, since: datetime | None = None, follow: bool = True) -> AsyncGenerator[bytes]:
        offset: Any = "first" if since is None else since - CLOCK_SKEW
        told = ""  # an outage is told once, not every second
        while True:
            try:
                async with self._reading.channel(prefetch=PREFETCH) as channel:
                    async with asyncio.timeout(START):
                        await self._link.topology.declare_stream(channel, self._name)
                    async with aclosing(stream_messages(channel, self._name, offset, follow=follow)) as messages:
                        async for message in messages:
                            seen = stream_offset(message)
                            offset = offset if seen is None else seen + 1
                            told = ""
                            yield message.body
                if not follow:
                    return
            except StreamDeletedError as error:
                if not follow:
                    raise unavailable(f"RabbitMQ: the stream {self._name} was deleted while it was read") from error
                offset = "first"
                _log.warning("RabbitMQ: the stream %s was deleted; declaring it again", self._name)
            except TransientError as error:
                if not follow:
                    raise
                if error.message != told:
                    told = error.message
                    _log.info("the event stream is interrupted: %s", told)
            await asyncio.sleep(1)


class AmqpTransport:
    """See :class:`shared.broker.transport.Transport`."""

    extend_interval = 60.0

    def __init__(self, link: AmqpLink, events: AmqpEvents, cancellations: AmqpEvents, claims: AmqpClaims) -> None:
        self._link = link
        self.dead = AmqpDeadLetters(link)
        self.events = events
        self.cancellations = cancellations
        self.claims = claims

    async def publish(self, message: WireMessage, lane: Priority, *, delay: float = 0, deduplicate: str = "") -> None:
        del deduplicate  # RabbitMQ has no window: a second message is delivered, and the consumer converges
        topology = self._link.topology
        name = topology.retry(lane, delay) if delay > 0 else topology.lane(lane)
        await self._link.publish(name, message)

    def subscribe(self, prefetch: int) -> AbstractAsyncContextManager[AsyncIterator[AmqpTaken]]:
        return subscription(self._link, prefetch)

    async def stats(self) -> BrokerStats:
        topology = self._link.topology

        async def declared(channel: AbstractChannel) -> tuple[int, int, int]:
            ready = consumers = retrying = 0
            lanes: tuple[Priority, ...] = ("live", "backfill")
            for lane in lanes:
                queue = await channel.declare_queue(topology.lane(lane), passive=True)
                ready += queue.declaration_result.message_count or 0
                consumers += queue.declaration_result.consumer_count or 0
                for step in RETRY_STEPS:
                    retry = await channel.declare_queue(topology.retry(lane, step), passive=True)
                    retrying += retry.declaration_result.message_count or 0
            return ready, consumers, retrying

        ready, consumers, retrying = await self._link.call(declared)
        dead = await self.dead.ready()
        # AMQP tells neither what is unacknowledged nor how old the oldest is; the ingress's history does.
        return BrokerStats(ready=ready, in_flight=None, retrying=retrying, dead=dead, consumers=consumers)

    async def check_health(self) -> None:
        async def declared(channel: AbstractChannel) -> None:
            await channel.declare_queue(self._link.topology.lane("live"), passive=True)

        await self._link.call(declared)
        self.events.refuse_if_blocked()


@asynccontextmanager
async def open_amqp(url: str, settings: BrokerSettings) -> AsyncIterator[AmqpTransport]:
    """A transport over the RabbitMQ at ``url``; it is contacted when it is needed.

    Raises:
        PermanentError: ``broker_refused``, ``broker_mismatch``, by the first operation.
    """
    topology = Topology(settings.prefix, settings.delivery_limit, settings.events_max_age, settings.replicas)

    def connection() -> AmqpLink:
        return AmqpLink(url, topology, timeout=settings.publish_timeout, ca=settings.ca)

    # A stream that is not ready makes RabbitMQ close the whole connection: the history has connections of its own, and so
    # have the claims, which hold channels in any number.
    link, writing, reading, claiming = connection(), connection(), connection(), connection()
    events, cancellations = (AmqpEvents(name, writing, reading) for name in (topology.events, topology.cancellations))
    transport = AmqpTransport(link, events, cancellations, AmqpClaims(claiming))
    try:
        yield transport
    finally:
        await transport.dead.close()
        for each in (link, writing, reading, claiming):
            await each.close()
