"""Confirmed publishes into queues, many at once: what is published in one turn of the event loop leaves in one write.

The client library takes a lock, a time-out, an entry of its send queue, a write to the socket and some callbacks for each message;
together they cost more than the broker's own work. Confirms and returns stay the library's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from struct import Struct
from typing import Any

from aio_pika import DeliveryMode
from aiormq import Channel, spec
from aiormq.abc import ChannelFrame
from aiormq.exceptions import AMQPError, ChannelInvalidStateError
from pamqp import encode
from pamqp.constants import FRAME_BODY, FRAME_END_CHAR, FRAME_HEADER
from pamqp.frame import marshal

from shared.broker.wire import UID, WireMessage
from shared.unique import unique_id

_FRAME_START = Struct(">BHI")
"""Kind, channel, size."""
_HEADER_START = Struct(">HxxQH")
"""Class, size of the body, flags of the properties that are set."""
_LENGTH = Struct(">I")
_SET = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7
"""content-type, headers, delivery-mode, message-id."""
_JSON = encode.short_string("application/json")
_PERSISTENT = bytes((DeliveryMode.PERSISTENT,))


@dataclass(slots=True, eq=False)
class _Outgoing:
    uid: str
    frames: bytes
    confirmed: asyncio.Future[Any]


class Publisher:
    """One for each channel, which must confirm."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Outgoing] = []
        self._sending: asyncio.Task[None] | None = None
        channel.closing.add_done_callback(self._closed)

    async def publish(self, queue: str, message: WireMessage) -> None:
        """Return once ``queue`` has the message on disk. Who stops waiting takes nothing back that was sent.

        Raises:
            ChannelInvalidStateError: it is closed.
            AMQPError: what the library's own publish raises; ``DeliveryError`` where the queue is missing or full.
        """
        if self._channel.is_closed:
            raise ChannelInvalidStateError(f"channel {self._channel.number} is closed")
        uid = message.headers.get(UID) or unique_id()
        confirmed = self._loop.create_future()
        self._waiting.append(_Outgoing(uid, self._frames(queue, uid, message), confirmed))
        if self._sending is None:
            self._sending = self._loop.create_task(self._send())
        try:
            await confirmed
        finally:
            self._channel.message_id_delivery_tag.pop(uid, None)

    async def _send(self) -> None:
        try:
            # The library's own publishes on this channel hold the lock until theirs are on their way: numbers follow the wire.
            async with self._channel.lock:
                waiting = [each for each in self._take() if not each.confirmed.done()]
                for each in waiting:
                    self._expect(each)
                payload = b"".join([each.frames for each in waiting])
                await self._channel.write_queue.put(ChannelFrame(payload, should_close=False))
        except (AMQPError, ChannelInvalidStateError) as error:
            for each in self._take():
                if not each.confirmed.done():
                    each.confirmed.set_exception(error)

    def _take(self) -> Sequence[_Outgoing]:
        waiting, self._waiting, self._sending = self._waiting, [], None
        return waiting

    def _expect(self, outgoing: _Outgoing) -> None:
        """The next number that the broker confirms is this message's; one that it returns is known by its id."""
        channel = self._channel
        channel.delivery_tag += 1
        channel.confirmations[channel.delivery_tag] = outgoing.confirmed
        channel.message_id_delivery_tag[outgoing.uid] = channel.delivery_tag

    def _closed(self, _closing: asyncio.Future[Any]) -> None:
        """Nothing more is confirmed. What waits to be sent is told by the lock."""
        for confirmed in self._channel.confirmations.values():
            if not confirmed.done():
                confirmed.set_exception(ChannelInvalidStateError(f"channel {self._channel.number} was closed"))

    def _frames(self, queue: str, uid: str, message: WireMessage) -> bytes:
        number, size = self._channel.number, self._channel.max_content_size
        head = _frame(FRAME_HEADER, number, _content_header(uid, message))
        pieces = [message.body[start : start + size] for start in range(0, len(message.body), size)]
        return b"".join([_method(queue, number), head, *[_frame(FRAME_BODY, number, piece) for piece in pieces]])


def _content_header(uid: str, message: WireMessage) -> bytes:
    """AMQP 0-9-1, 4.2.6.1: the properties that we set and no others, in the order of their flags; the library looks for all 14."""
    return b"".join(
        (
            _HEADER_START.pack(spec.Basic.frame_id, len(message.body), _SET),
            _JSON,
            _text_table(message.headers),
            _PERSISTENT,
            encode.short_string(uid),
        )
    )


def _text_table(values: Mapping[str, str]) -> bytes:
    """4.2.5.5: a field table of long strings; the library's own sorts, and asks of each value what it is."""
    fields = b"".join([_field(name, value.encode()) for name, value in values.items()])
    return _LENGTH.pack(len(fields)) + fields


def _field(name: str, text: bytes) -> bytes:
    return _field_name(name) + _LENGTH.pack(len(text)) + text


@lru_cache(maxsize=256)
def _field_name(name: str) -> bytes:
    """With the mark of a long string behind it."""
    return encode.short_string(name) + b"S"


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _FRAME_START.pack(kind, channel, len(payload)) + payload + FRAME_END_CHAR


@cache
def _method(queue: str, channel: int) -> bytes:
    """The same for all messages to a queue on a channel."""
    return marshal(spec.Basic.Publish(routing_key=queue, mandatory=True), channel)
