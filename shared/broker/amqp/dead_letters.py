"""Dead letters in a quorum queue, looked at without taking any.

AMQP cannot browse: to look at a queue is to be delivered all of it and to hand it back. A quorum queue hands returned messages
out again first, whether the channel is closed or the process dies, so nothing is lost. Two processes that look at once would
each see a part; an exclusive lock queue, which RabbitMQ removes when its owner's connection ends however it ends, lets one look
at a time. See docs/adr/0005-dead-letters-on-rabbitmq.md.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter

import aio_pika
from aio_pika.abc import AbstractChannel
from aiormq.abc import AbstractChannel as AbstractBareChannel
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import AMQPError, ChannelLockedResource

from shared.broker.amqp.link import AmqpLink
from shared.broker.amqp.work import wire
from shared.broker.cancellation import attempted, cancellable
from shared.broker.transport import unavailable
from shared.broker.wire import DEAD_LETTER_ID, WireMessage, decode_dead_letter
from shared.messages import DeadLetter, Failure

LOCK_WAIT = 30.0
"""Seconds that a look waits for another process's."""
SILENCE = 10.0
"""Seconds without an answer or a further letter after which a look is given up."""
PREFETCH = 65_535
"""The most that AMQP can say; RabbitMQ takes none to mean 2000."""
KEEP = 0.5
"""Seconds that a look is kept after a letter was taken: a replay of thousands looks once and not once a letter."""
_BY_BROKER = Failure(
    code="delivery_limit",
    kind="permanent",
    message="RabbitMQ gave up on it: too many deliveries ended without an outcome; it may crash its consumers",
)


_Kept = tuple[float, Mapping[str, str], bytes]
"""When it died (UNIX seconds), its headers, its body compressed."""
_ENVELOPE: Mapping[str, str] = {DEAD_LETTER_ID: ""}
"""The headers that matter of a body that is a letter."""


def _unpacked(kept: _Kept) -> DeadLetter:
    died_at, headers, body = kept
    message = WireMessage(zlib.decompress(body), headers)
    return decode_dead_letter(message, fallback=_BY_BROKER, died_at=datetime.fromtimestamp(died_at, UTC))


@dataclass(slots=True)
class _Look:
    """Everything that was in the queue, held on a channel of its own: delivery tags, and what is wanted of the letters."""

    channel: AbstractBareChannel
    wanted: Callable[[DeadLetter], bool]
    tags: dict[str, int] = field(default_factory=dict)
    copies: dict[str, list[int]] = field(default_factory=dict)
    """Delivery tags of letters that were there twice (a consumer died between copy and settlement)."""
    kept: dict[str, _Kept] = field(default_factory=dict)

    def note(self, incoming: DeliveredMessage) -> None:
        properties = incoming.header.properties
        headers = properties.headers or {}
        died_at = properties.timestamp or datetime.now(UTC)
        if isinstance(deaths := headers.get("x-death"), list) and deaths and isinstance(deaths[0], dict):
            when = deaths[0].get("time")
            died_at = when if isinstance(when, datetime) else died_at
        if died_at.tzinfo is None:
            died_at = died_at.replace(tzinfo=UTC)
        message = wire(headers, incoming.body)
        letter = decode_dead_letter(message, fallback=_BY_BROKER, died_at=died_at)
        tag = incoming.delivery_tag or 0
        if self.tags.setdefault(letter.id, tag) != tag:
            self.copies.setdefault(letter.id, []).append(tag)
        elif self.wanted(letter):
            told = _ENVELOPE if message.headers.get(DEAD_LETTER_ID) == letter.id else message.headers
            self.kept[letter.id] = letter.died_at.timestamp(), told, zlib.compress(message.body, 1)

    def letters(self) -> Iterator[DeadLetter]:
        """In the order of their deaths: what several consumers hand back comes again in another."""
        yield from map(_unpacked, sorted(self.kept.values(), key=itemgetter(0)))

    async def settle_copies(self, dead_letter_id: str) -> None:
        for tag in self.copies.pop(dead_letter_id, ()):
            await self.channel.basic_ack(tag)


@dataclass(frozen=True, slots=True)
class _TakenLetter:
    store: AmqpDeadLetters
    letter: DeadLetter
    token: str

    async def remove(self) -> bool:
        return await self.store.remove(self.letter.id)


class AmqpDeadLetters:
    """See :class:`shared.broker.transport.DeadLetterStore`."""

    def __init__(self, link: AmqpLink) -> None:
        self._link = link
        self._lock = asyncio.Lock()
        self._look: _Look | None = None
        self._expiry: asyncio.Task[None] | None = None

    async def put(self, letter: DeadLetter, message: WireMessage) -> None:
        del letter  # a second copy of it is dropped when the queue is looked at
        outgoing = aio_pika.Message(
            message.body,
            headers=dict(message.headers),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            content_type="application/json",
            message_id=message.headers.get(DEAD_LETTER_ID),
        )
        name = self._link.topology.dead
        await self._link.call(
            lambda channel: channel.default_exchange.publish(outgoing, name, mandatory=True, timeout=self._link.timeout)
        )

    async def snapshot(self, wanted: Callable[[DeadLetter], bool]) -> Iterator[DeadLetter]:
        async with self._lock:
            await self._close_look()
            try:
                return (await self._open_look(wanted)).letters()
            finally:
                await self._close_look()

    async def ready(self) -> int:
        """Messages in the queue as RabbitMQ counts them: cheap, and without the ones that are being looked at."""

        async def declared(channel: AbstractChannel) -> int:
            queue = await channel.declare_queue(self._link.topology.dead, passive=True)
            return queue.declaration_result.message_count or 0

        held = len(self._look.tags) if self._look else 0
        return await self._link.call(declared) + held

    @asynccontextmanager
    async def take(self, dead_letter_id: str) -> AsyncIterator[_TakenLetter | None]:
        async with self._lock:
            self._keep_no_longer()
            if self._look is not None and (self._look.channel.is_closed or dead_letter_id not in self._look.kept):
                await self._close_look()
            look = self._look or await self._open_look(lambda _letter: True)
            try:
                found = look.kept.get(dead_letter_id)
                if found is None:
                    yield None
                else:
                    # Who holds the look holds the letter: there is no second taker that a token would have to tell apart.
                    letter = _unpacked(found)
                    yield _TakenLetter(self, letter, f"{dead_letter_id}-{letter.died_at.timestamp()}")
            finally:
                self._expiry = asyncio.create_task(self._expire(), name="dead-letter-look")

    async def remove(self, dead_letter_id: str) -> bool:
        """Of the current look; the caller holds it."""
        look = self._look
        if look is None or dead_letter_id not in look.kept:
            return False
        try:
            async with asyncio.timeout(self._link.timeout):
                await look.settle_copies(dead_letter_id)
                await look.channel.basic_ack(look.tags[dead_letter_id])
        except Exception as error:  # every way in which the channel may be gone means the same
            raise unavailable("the connection was lost while a dead letter was removed") from error
        del look.kept[dead_letter_id], look.tags[dead_letter_id]
        return True

    async def close(self) -> None:
        async with self._lock:
            self._keep_no_longer()
            await self._close_look()

    async def _open_look(self, wanted: Callable[[DeadLetter], bool]) -> _Look:
        """Hold everything that is in the queue. The caller holds the in-process lock."""
        await self.ready()  # which declares a queue that was deleted
        try:
            async with asyncio.timeout(LOCK_WAIT):
                channel = await cancellable(self._locked_channel())
        except TimeoutError:
            raise unavailable("another process has been looking at the dead letters for too long") from None
        except (AMQPError, OSError) as error:
            raise unavailable("the connection was lost before the dead letters were read") from error
        look = _Look(channel, wanted)
        try:
            await self._fill(look)
            for dead_letter_id in list(look.copies):
                await look.settle_copies(dead_letter_id)
        except BaseException as error:
            # With its connection, whose lock keeps others out: what the channel holds, nobody else sees.
            await self._hand_back(look)
            if not isinstance(error, Exception):
                raise
            raise unavailable(f"the dead letters could not be read to their end: {self._link.reason(error)}") from error
        self._look = look
        return look

    async def _fill(self, look: _Look) -> None:
        """As a consumer that acknowledges nothing, which costs half of asking for each."""
        name, channel, timeout = self._link.topology.dead, look.channel, self._link.timeout
        # Which waits while thousands that another look held are handed back.
        declared = await channel.queue_declare(name, passive=True, timeout=SILENCE)
        await channel.basic_qos(prefetch_count=PREFETCH, timeout=timeout)
        total, seen, asked_for = declared.message_count or 0, 0, 0
        arrived = asyncio.Event()

        async def note(incoming: DeliveredMessage) -> None:
            nonlocal seen
            look.note(incoming)
            seen += 1
            arrived.set()

        while seen < total:
            if seen >= asked_for:  # the prefetch is each consumer's own
                await channel.basic_consume(name, note, timeout=timeout)
                asked_for += PREFETCH
            async with asyncio.timeout(SILENCE):
                await arrived.wait()
            arrived.clear()
        # A server that has just started counts less than there is; what it is asked for it has.
        while (incoming := await channel.basic_get(name, timeout=timeout)).delivery_tag is not None:
            look.note(incoming)

    async def _locked_channel(self) -> AbstractBareChannel:
        """A channel of a connection that owns the lock queue: the protocol library's, whose messages are half as dear."""
        while True:
            connection = await self._link.lock_connection()
            if connection.transport is None:
                raise ConnectionError("lost this moment")
            channel = await connection.transport.connection.channel(publisher_confirms=False)
            try:
                await channel.queue_declare(self._link.topology.dead_lock, exclusive=True, auto_delete=True)
            except ChannelLockedResource:
                await asyncio.sleep(0.1)
                continue
            return channel

    async def _close_look(self) -> None:
        """Hand everything back, then the lock."""
        look, self._look = self._look, None
        if look is not None:
            await self._hand_back(look)

    async def _hand_back(self, look: _Look) -> None:
        if not look.channel.is_closed:  # the close is answered once the queue has its messages back
            await attempted(look.channel.close(), self._link.timeout)
        await self._link.release_lock_connection()

    def _keep_no_longer(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    async def _expire(self) -> None:
        await asyncio.sleep(KEEP)
        async with self._lock:
            self._expiry = None
            await self._close_look()
