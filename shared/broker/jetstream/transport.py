"""JetStream under :class:`shared.broker.queue.QueueBroker`."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import nats.js.errors
from nats.js.api import ConsumerInfo

from shared.broker.api import BrokerStats
from shared.broker.event_stream import CLOCK_SKEW, EventReading
from shared.broker.jetstream.claims import JetStreamClaims
from shared.broker.jetstream.dead_letters import JetStreamDeadLetters
from shared.broker.jetstream.link import NatsLink
from shared.broker.jetstream.publisher import Publisher
from shared.broker.jetstream.reader import messages_of
from shared.broker.jetstream.topology import ACK_WAIT, Names, Retention
from shared.broker.jetstream.work import JetStreamTaken, subscription
from shared.broker.wire import PUBLISHED_AT, WireMessage, encode_events
from shared.events import ConversionEvent
from shared.messages import Priority


class JetStreamEvents(EventReading):
    """See :class:`shared.broker.api.EventStream`."""

    def __init__(self, link: NatsLink, publisher: Publisher, stream: str, subject: str) -> None:
        self._link, self._publisher = link, publisher
        self._stream, self._subject = stream, subject

    async def publish(self, *events: ConversionEvent) -> None:
        for body in encode_events(events):
            headers = {"Nats-Msg-Id": f"event-{hashlib.sha256(body).hexdigest()}"}
            await self._publisher.publish(self._subject, body, headers)

    async def bodies(self, *, since: datetime | None = None, follow: bool = True) -> AsyncGenerator[bytes]:
        # The server knows when it stored an event, not when it happened on a clock that may differ: start early.
        start = None if since is None else since - CLOCK_SKEW
        async with aclosing(messages_of(self._link, self._stream, since=start, follow=follow)) as messages:
            async for message in messages:
                yield message.data


class JetStreamTransport:
    """See :class:`shared.broker.transport.Transport`."""

    extend_interval = ACK_WAIT / 3

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._publisher = publisher = Publisher(link)
        names = link.names
        self.dead = JetStreamDeadLetters(link)
        self.events = JetStreamEvents(link, publisher, names.events, names.event)
        self.cancellations = JetStreamEvents(link, publisher, names.cancellations, names.cancellation)
        self.claims = JetStreamClaims(link)

    async def publish(self, message: WireMessage, lane: Priority, *, delay: float = 0, deduplicate: str = "") -> None:
        names = self._link.names
        subject = names.retry(lane) if delay > 0 else names.lane(lane)
        headers = dict(message.headers)
        if deduplicate:
            headers["Nats-Msg-Id"] = deduplicate
        await self._publisher.publish(subject, message.body, headers)

    def subscribe(self, prefetch: int) -> AbstractAsyncContextManager[AsyncIterator[JetStreamTaken]]:
        return subscription(self._link, prefetch)

    async def stats(self) -> BrokerStats:
        live, backfill, retry = [await self._consumer(durable) for durable in ("live", "backfill", "retry")]
        ready = (live.num_pending or 0) + (backfill.num_pending or 0)
        return BrokerStats(
            ready=ready,
            in_flight=(live.num_ack_pending or 0) + (backfill.num_ack_pending or 0),
            retrying=(retry.num_pending or 0) + (retry.num_ack_pending or 0),
            dead=await self.dead.count(),
            consumers=None,
            oldest_age_seconds=await self._oldest_age() if ready else None,
        )

    async def check_health(self) -> None:
        await self._link.check()
        await self._link.call(lambda js: js.stream_info(self._link.names.work))

    async def _consumer(self, durable: str) -> ConsumerInfo:
        return await self._link.call(lambda js: js.consumer_info(self._link.names.work, durable))

    async def _oldest_age(self) -> float | None:
        """Of the oldest live message that is not finished; NATS cannot tell waiting ones from those in work."""
        subject = self._link.names.lane("live")
        try:
            oldest = await self._link.call(
                lambda js: js.get_msg(self._link.names.work, seq=1, subject=subject, next=True)
            )
            published = datetime.fromisoformat((oldest.headers or {})[PUBLISHED_AT])
        except (nats.js.errors.NotFoundError, KeyError, ValueError):
            return None
        return max(0.0, (datetime.now(UTC) - published).total_seconds())


@asynccontextmanager
async def open_jetstream(
    url: str, *, prefix: str, publish_timeout: float, retention: Retention, ca: Path | None = None
) -> AsyncIterator[JetStreamTransport]:
    """A transport over the NATS server at ``url``.

    Raises:
        PermanentError: ``broker_refused`` (credentials), ``broker_mismatch`` (streams of the same name, other settings).
    """
    link = NatsLink(url, Names(prefix), retention, timeout=publish_timeout, ca=ca)
    async with link.open():
        yield JetStreamTransport(link)
