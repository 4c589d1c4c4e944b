"""The work queues: live messages are pushed to us up to the prefetch, backfill is fetched only when nothing live waits.

Backfill is fetched on a channel of its own: so it neither counts against the prefetch nor keeps the live one from being closed.

Where somebody deletes the live queue and it is declared again within some 20 ms, RabbitMQ 3 was seen to tell its consumers nothing,
and to count what is published as delivered to them, while nothing arrives: no question shows that (a passive declare tells none
ready and a consumer). Closing the channel hands it all back. So whoever hears nothing for a while subscribes anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from typing import Any

from aio_pika import IncomingMessage
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aiormq.abc import AbstractChannel as AbstractBareChannel
from aiormq.abc import DeliveredMessage

from shared.broker.amqp.link import AmqpLink
from shared.broker.cancellation import attempted, cancellable, finish, honouring_cancellation
from shared.broker.slots import Slots
from shared.broker.transport import unavailable
from shared.broker.wire import WireMessage, handed_back
from shared.errors import IcsError, TransientError
from shared.messages import Priority

IDLE = 0.25
"""Seconds without a live message before backfill is looked for; as long as there is any, not after one that has ended."""
RENEW = 60.0
"""Seconds without a live message, and with none in hand, after which a subscription is made anew."""
RECONNECT = (0.2, 0.5, 1.0, 2.0, 5.0)
_log = logging.getLogger(__name__)


class _Room:
    """Stands among the messages that arrive where a backfill has ended."""


class _Cancelled:
    """The broker sends nothing more: somebody deleted the queue. What was handed out can still be settled."""


_Arrived = asyncio.Queue[AbstractIncomingMessage | _Room | _Cancelled | None]


class AmqpTaken:
    """See :class:`shared.broker.transport.Taken`."""

    def __init__(
        self,
        incoming: AbstractIncomingMessage,
        lane: Priority,
        slots: Slots,
        timeout: float,
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        self._incoming = incoming
        self._slots = slots
        self._slot = slots.occupy(lane)
        self.recalled = self._slot.recalled
        self._timeout = timeout
        self._ended = ended
        self._acknowledged = False
        self.message = wire(incoming.headers, incoming.body)
        self.crashes = delivery_count(incoming)

    async def ack(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._incoming.ack()
                self._acknowledged = True
        except Exception as error:  # every way in which the channel may be gone means the same
            raise unavailable("the connection that delivered this message is closed") from error

    async def extend(self) -> None:
        """RabbitMQ has no lease: ``consumer_timeout`` in its configuration bounds a delivery."""

    async def drop(self) -> None:
        try:
            if not self._acknowledged:  # it would count against the prefetch for as long as the channel is open
                await attempted(self._incoming.nack(requeue=True), self._timeout)
        finally:
            self._slots.vacate(self._slot)
            await self._ended()


def delivery_count(incoming: AbstractIncomingMessage) -> int:
    """Deliveries before this one, of this copy, that ended without an acknowledgement."""
    count = incoming.headers.get("x-delivery-count", 0)
    return count if isinstance(count, int) else 0


def wire(headers: Mapping[str, Any], body: bytes) -> WireMessage:
    """Body and text headers; what a broker or a person added of other types is left out."""
    return WireMessage(body, {name: _text(value) for name, value in headers.items() if isinstance(value, bytes | str)})


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


@asynccontextmanager
async def subscription(link: AmqpLink, prefetch: int) -> AsyncIterator[AsyncIterator[AmqpTaken]]:
    """Deliveries over any number of connections. A channel of which something was handed out stays open until all of it is settled,
    which may be after leaving.
    """
    async with aclosing(_Subscription(link, prefetch).messages()) as messages:
        yield messages


class _Subscription:
    def __init__(self, link: AmqpLink, prefetch: int) -> None:
        self._link = link
        self._prefetch = prefetch
        self._slots = Slots(prefetch)
        self._fetching: AbstractChannel | None = None
        self._left: dict[Priority, list[AbstractBareChannel | AbstractChannel]] = {"live": [], "backfill": []}
        """Channels that nothing more comes on, by the lane of what they are still open for."""

    async def messages(self) -> AsyncGenerator[AmqpTaken]:
        failures = 0
        try:
            while True:
                try:
                    with honouring_cancellation():
                        channel = await self._link.open_bare_channel(self._link.timeout)
                        async with aclosing(self._from(channel)) as taken:
                            async for each in taken:
                                failures = 0
                                yield each
                except TransientError as error:
                    pause = RECONNECT[min(failures, len(RECONNECT) - 1)]
                    failures += 1
                    self._link.declare_again()
                    _log.warning("%s; trying again in %.1f s", error.message, pause)
                    await asyncio.sleep(pause)
        finally:
            if self._fetching is not None:
                self._left["backfill"].append(self._fetching)
            await self._close_left()

    async def _from(self, channel: AbstractBareChannel) -> AsyncGenerator[AmqpTaken]:
        """Until the subscription is to be made anew."""
        arrived: _Arrived = asyncio.Queue()

        async def note(message: DeliveredMessage) -> None:
            arrived.put_nowait(IncomingMessage(message))

        channel.closing.add_done_callback(lambda _: arrived.put_nowait(None))
        channel.on_consumer_cancel_callbacks.add(lambda _frame: arrived.put_nowait(_Cancelled()))
        try:
            async with asyncio.timeout(self._link.timeout):
                await channel.basic_qos(prefetch_count=self._prefetch)
                consuming = await channel.basic_consume(self._link.topology.lane("live"), note)
        except Exception as error:
            await attempted(channel.close(), self._link.timeout)
            raise unavailable("RabbitMQ: cannot subscribe") from error
        heard = monotonic()
        # Not one that ended before a live message was taken: the next live one may be on its way to the slot of that.
        ended, pause = False, IDLE

        def when_backfill_ends() -> None:
            nonlocal ended
            ended = True
            arrived.put_nowait(_Room())

        self._slots.when_backfill_ends = when_backfill_ends
        try:
            while True:
                if not self._slots.backfills:
                    await self._slots.wait_free()
                incoming: AbstractIncomingMessage | _Room | _Cancelled | None
                try:
                    async with asyncio.timeout(pause):
                        incoming = await arrived.get()
                except TimeoutError:
                    if not self._slots.live and monotonic() - heard >= RENEW:
                        _log.debug("RabbitMQ: nothing heard for %.0f s; subscribing again", RENEW)
                        return
                    incoming, ended = _Room(), True
                pause = IDLE
                if isinstance(incoming, _Room):
                    room = ended and arrived.empty() and self._slots.backfill_fits
                    if room and (waiting := await self._fetched()) is not None:
                        pause = 0
                        yield self._handed_out(waiting, "backfill")
                    continue
                if isinstance(incoming, _Cancelled):
                    raise unavailable("RabbitMQ ended our subscription: the work queue was deleted")
                if incoming is None:
                    raise unavailable("RabbitMQ: the channel was closed")
                heard = monotonic()
                self._slots.recall()
                try:
                    await self._slots.wait_free()
                except asyncio.CancelledError:
                    arrived.put_nowait(incoming)
                    raise
                ended = False
                yield self._handed_out(incoming, "live")
        finally:
            await attempted(self._leave(channel, consuming.consumer_tag or "", arrived), self._link.timeout)

    def _handed_out(self, incoming: AbstractIncomingMessage, lane: Priority) -> AmqpTaken:
        return AmqpTaken(incoming, lane, self._slots, self._link.timeout, self._close_left)

    async def _fetched(self) -> AbstractIncomingMessage | None:
        if self._fetching is None:
            self._fetching = await self._link.open_channel()
        channel = self._fetching
        try:
            queue = await channel.get_queue(self._link.topology.lane("backfill"), ensure=False)
            return await cancellable(queue.get(fail=False, timeout=self._link.timeout))
        except Exception as error:
            self._fetching = None
            if not self._slots.backfills:
                await attempted(channel.close(), self._link.timeout)
            raise unavailable("RabbitMQ: the channel was closed") from error

    async def _leave(self, channel: AbstractBareChannel, tag: str, arrived: _Arrived) -> None:
        """Take no more, and hand back what nobody has seen."""
        async with asyncio.timeout(self._link.timeout):
            await channel.basic_cancel(tag)
            while not arrived.empty():
                unseen = arrived.get_nowait()
                if unseen is not None and not isinstance(unseen, _Room | _Cancelled):
                    await self._hand_back(unseen)
            self._left["live"].append(channel)
            await self._close_left()

    async def _hand_back(self, unseen: AbstractIncomingMessage) -> None:
        """A copy: a negative acknowledgement counts as a delivery without an outcome, and a consumer may leave many times."""
        try:
            copy = handed_back(wire(unseen.headers, unseen.body), delivery_count(unseen))
            await finish(self._link.publish(self._link.topology.lane("live"), copy))
            await unseen.ack()
        except IcsError:
            await unseen.nack(requeue=True)

    async def _close_left(self) -> None:
        """What was left, once nothing that came on it is in hand."""
        for lane, channels in self._left.items():
            while channels and not (self._slots.live if lane == "live" else self._slots.backfills):
                await attempted(channels.pop().close(), self._link.timeout)
