"""Taking work from JetStream: live before backfill, and due retries put back into their lane."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime

import nats.errors
from nats.aio.msg import Msg

from shared.background import beside
from shared.broker.cancellation import attempted, finish
from shared.broker.jetstream.link import NatsLink
from shared.broker.jetstream.pull import Puller
from shared.broker.jetstream.topology import ACK_WAIT
from shared.broker.slots import Slots
from shared.broker.transport import unavailable
from shared.broker.wire import NOT_BEFORE, WireMessage, handed_back
from shared.errors import IcsError
from shared.messages import Priority

_log = logging.getLogger(__name__)
_LONG_POLL = 1.0
"""Seconds; also how long backfill may wait unseen behind an empty live lane, but not what comes after one that has ended."""
_FULL_POLL = 0.25
"""Seconds between two looks for live work while backfills hold the last slots. A look does not wait at the server: whatever
consumer has room and waits there gets a push before one that must stop a backfill for it."""
_RETRY_BATCH = 200
_HANDED_BACK = 1.0
"""Seconds before a message that could not be settled comes again."""


def wire_of(message: Msg) -> WireMessage:
    headers = {name: value for name, value in (message.headers or {}).items() if not name.lower().startswith("nats-")}
    return WireMessage(message.data, headers)


async def confirm(link: NatsLink, message: Msg) -> None:
    """Acknowledge and wait until the server has it. Raises ``TransientError`` (``broker_unavailable``)."""
    try:
        await link.call(lambda _js: message.ack_sync(timeout=link.timeout))
    except nats.errors.MsgAlreadyAckdError as error:
        raise unavailable("NATS: acknowledged already") from error


class JetStreamTaken:
    """A message held by this process."""

    def __init__(self, link: NatsLink, message: Msg, lane: Priority, slots: Slots) -> None:
        self._link = link
        self._message = message
        self._slots = slots
        self._slot = slots.occupy(lane)
        self.recalled = self._slot.recalled
        self._acknowledged = False

    @property
    def message(self) -> WireMessage:
        return wire_of(self._message)

    @property
    def crashes(self) -> int:
        return self._message.metadata.num_delivered - 1

    async def ack(self) -> None:
        await confirm(self._link, self._message)
        self._acknowledged = True

    async def extend(self) -> None:
        try:
            await self._message.in_progress()
        except nats.errors.Error as error:
            raise unavailable(f"NATS: {type(error).__name__}") from error

    async def drop(self) -> None:
        try:
            if not self._acknowledged:
                await attempted(self._message.nak(delay=_HANDED_BACK), self._link.timeout)
        finally:
            self._slots.vacate(self._slot)


@asynccontextmanager
async def subscription(link: NatsLink, prefetch: int) -> AsyncIterator[AsyncIterator[JetStreamTaken]]:
    """See :class:`shared.broker.transport.Transport`."""
    live = Puller(link.client, link.names.work, "live", stale_after=ACK_WAIT / 2)
    backfill = Puller(link.client, link.names.work, "backfill", stale_after=ACK_WAIT / 2)
    try:
        async with (
            beside(_return_due_retries(link), "returning due retries"),
            aclosing(_messages(link, live, backfill, Slots(prefetch))) as messages,
        ):
            yield messages
    finally:
        for unseen in [*await live.close(), *await backfill.close()]:
            try:
                await finish(_hand_back(link, unseen))
            except (nats.errors.Error, IcsError):
                break  # disconnected: the server redelivers after ACK_WAIT


async def _hand_back(link: NatsLink, unseen: Msg) -> None:
    """A copy: a negative acknowledgement counts as a delivery without an outcome, and a consumer may leave many times."""
    copy = handed_back(wire_of(unseen), unseen.metadata.num_delivered - 1)
    # Whatever else becomes of this delivery, it has one copy.
    headers = {
        **copy.headers,
        "Nats-Msg-Id": f"unseen-{unseen.metadata.sequence.stream}-{unseen.metadata.num_delivered}",
    }
    await link.call(lambda js: js.publish(unseen.subject, copy.body, headers=headers))
    await confirm(link, unseen)


async def _messages(link: NatsLink, live: Puller, backfill: Puller, slots: Slots) -> AsyncGenerator[JetStreamTaken]:
    slots.when_backfill_ends = live.interrupt
    while True:
        if not slots.backfills:
            await slots.wait_free()
        lane: Priority = "live"
        try:
            message = await live.take(max(1, slots.free), 0)
            if message is None and slots.backfill_fits:
                lane, message = "backfill", await backfill.take(1, 0)
            if message is None and slots.free:
                lane, message = "live", await live.take(slots.free, _LONG_POLL)
        except nats.errors.Error as error:
            _log.warning("NATS: cannot take work: %s", type(error).__name__)
            message = None
        if message is not None:
            await _make_room(link, message, slots)
            yield JetStreamTaken(link, message, lane, slots)
        elif not slots.free:
            await slots.wait_free(_FULL_POLL)
        elif "503" in (live.last_status, backfill.last_status) or not link.client.is_connected:
            link.missed()
            await asyncio.sleep(0.1)  # the server restarts, or has not loaded its streams yet


async def _make_room(link: NatsLink, message: Msg, slots: Slots) -> None:
    """Wait for a slot for ``message``, which stays ours meanwhile, or goes back when we leave."""
    try:
        while not slots.free:
            slots.recall()
            await slots.wait_free(ACK_WAIT / 3)
            with suppress(nats.errors.Error):  # disconnected: the server redelivers after ACK_WAIT
                await message.in_progress()
    except asyncio.CancelledError:
        with suppress(nats.errors.Error, IcsError):
            await finish(_hand_back(link, message))
        raise


async def _return_due_retries(link: NatsLink) -> None:
    """Delayed messages wait as negative acknowledgements with a delay; whoever gets a due one publishes it to its lane."""
    puller = Puller(link.client, link.names.work, "retry", stale_after=ACK_WAIT / 2)
    try:
        while True:
            try:
                message = await puller.take(_RETRY_BATCH, 5)
                if message is not None:
                    await finish(_return_if_due(link, message))  # a copy without its acknowledgement comes again
                elif puller.last_status == "503" or not link.client.is_connected:
                    link.missed()
                    await asyncio.sleep(0.1)
            except (nats.errors.Error, IcsError) as error:
                _log.warning("NATS: cannot return a retry, it stays queued: %s", type(error).__name__)
                await asyncio.sleep(0.1)
    finally:
        await puller.close()


async def _return_if_due(link: NatsLink, message: Msg) -> None:
    wire = wire_of(message)
    try:
        wait = (datetime.fromisoformat(wire.headers[NOT_BEFORE]) - datetime.now(UTC)).total_seconds()
    except (KeyError, ValueError, TypeError):
        wait = 0.0  # not ours to delay; the work lane judges it
    if wait > 0:
        await message.nak(delay=wait)
        return
    lane = message.subject.rpartition(".")[2]
    headers = {name: value for name, value in wire.headers.items() if name != NOT_BEFORE}
    # The stream's sequence makes a second return (crash before the acknowledgement) a duplicate that the server drops.
    headers["Nats-Msg-Id"] = f"due-{message.metadata.sequence.stream}"
    await link.call(lambda js: js.publish(link.names.lane(lane), wire.body, headers=headers))
    await confirm(link, message)
