"""Reading a JetStream stream in order, from the start or an instant, over reconnects; nothing is consumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, StreamInfo

from shared.broker.jetstream.link import NatsLink
from shared.broker.jetstream.pull import Puller
from shared.broker.transport import unavailable
from shared.errors import TransientError

_BATCH = 500
_WAIT = 5.0
_TICK = timedelta(microseconds=1)
"""By which our clock is coarser than the server's."""


async def messages_of(
    link: NatsLink, stream: str, *, since: datetime | None = None, follow: bool
) -> AsyncGenerator[Msg]:
    """Every message kept. Without ``follow``, ends with the newest at the time of the call.

    Raises:
        TransientError: ``broker_unavailable``; never with ``follow``.
    """
    last = 0
    made: datetime | None = None
    read = datetime.min.replace(tzinfo=UTC)
    while True:
        try:
            kept = await _info(link, stream)
            if made not in {None, kept.created}:
                last = 0  # somebody deleted it, and nothing of this one was read
            elif last > kept.state.last_seq:
                last, since = 0, read + _TICK  # its server lost the newest, and gives out their numbers again
            made = kept.created
            info = await _ephemeral(link, stream, after=last, since=since)
        except TransientError:
            if not follow:
                raise
            await asyncio.sleep(0.2)
            continue
        pending = info.num_pending or 0
        if not follow and not pending:
            return
        puller = Puller(link.client, stream, info.name, stale_after=float("inf"))
        try:
            while (message := await puller.take(_BATCH, _WAIT)) is not None or (
                puller.last_status == "408" and link.client.is_connected
            ):
                if message is None:
                    continue
                metadata = message.metadata
                last, read = metadata.sequence.stream, metadata.timestamp
                pending -= 1
                yield message
                if not follow and (pending <= 0 or not metadata.num_pending):
                    return
        except nats.errors.Error as error:
            if not follow:
                raise unavailable(f"NATS: {type(error).__name__}") from error
        finally:
            await puller.close()
        if not follow:
            raise unavailable("NATS: the connection was lost while reading")


async def _info(link: NatsLink, stream: str) -> StreamInfo:
    try:
        return await link.call(lambda js: js.stream_info(stream))
    except nats.js.errors.APIError as error:
        raise unavailable(f"JetStream: {error.description}") from error


async def _ephemeral(link: NatsLink, stream: str, *, after: int, since: datetime | None) -> ConsumerInfo:
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE,
        inactive_threshold=60,
        mem_storage=True,
        num_replicas=1,
        deliver_policy=DeliverPolicy.ALL,
    )
    if after:
        config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, after + 1
    elif since is not None:
        config.deliver_policy, config.opt_start_time = DeliverPolicy.BY_START_TIME, since
    try:
        return await link.call(lambda js: js.add_consumer(stream, config))
    except nats.js.errors.APIError as error:
        raise unavailable(f"JetStream: {error.description}") from error
