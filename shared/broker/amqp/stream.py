"""Reading a RabbitMQ stream as fast as the client library can: a starting ingress reads a week of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

from aio_pika.abc import AbstractChannel
from aiormq import Channel
from aiormq.abc import DeliveredMessage

PREFETCH = 1000
_ACKNOWLEDGE = PREFETCH // 4
"""Messages for one acknowledgement, which is what lets the broker send more; each is a write to the socket."""
QUIET = 1.0
"""Seconds without a message after which the rest is acknowledged, and a reader that does not follow has seen all: AMQP does not
tell a stream's end."""
START = 30.0
"""Seconds; a stream takes its time to elect a leader after its node was killed."""


class StreamDeletedError(Exception):
    """Whatever is of that name next begins anew."""


_Arrived = asyncio.Queue[DeliveredMessage | StreamDeletedError | None]


async def stream_messages(
    channel: AbstractChannel, stream: str, offset: Any, *, follow: bool
) -> AsyncGenerator[DeliveredMessage]:
    """Messages from ``offset`` (``x-stream-offset``) on, until the channel is closed, or, without ``follow``, until none comes.

    Raises:
        StreamDeletedError: somebody deleted it meanwhile.

    ``channel`` has a prefetch of :data:`PREFETCH`, and no other use. The library's own consumer would cost more for each message
    than everything that is done with it.
    """
    arrived: _Arrived = asyncio.Queue()
    channel.close_callbacks.add(lambda *_: arrived.put_nowait(None))
    consuming = cast("Channel", await channel.get_underlay_channel())
    consuming.on_consumer_cancel_callbacks.add(lambda _frame: arrived.put_nowait(StreamDeletedError()))
    await consuming.basic_consume(stream, arrived.put, arguments={"x-stream-offset": offset}, timeout=START)
    unacknowledged, tag = 0, 0
    while True:
        try:
            message = await _next(arrived, QUIET if unacknowledged or not follow else None)
        except TimeoutError:
            if not follow:
                return
            unacknowledged = _ACKNOWLEDGE
        else:
            if message is None:
                return
            if isinstance(message, StreamDeletedError):
                raise message
            yield message
            unacknowledged += 1
            tag = message.delivery_tag or tag
        if unacknowledged >= _ACKNOWLEDGE:
            await consuming.basic_ack(tag, multiple=True, wait=False)
            unacknowledged = 0


async def _next(arrived: _Arrived, patience: float | None) -> DeliveredMessage | StreamDeletedError | None:
    """Raises ``TimeoutError``."""
    if not arrived.empty():
        return arrived.get_nowait()
    async with asyncio.timeout(patience):
        return await arrived.get()


def stream_offset(message: DeliveredMessage) -> int | None:
    """The message's place in the stream."""
    headers = message.header.properties.headers or {}
    found = headers.get("x-stream-offset")
    return found if isinstance(found, int) else None
