"""aio-pika's connection, on which a channel that RabbitMQ closes costs no other one.

The library answers such a close from a task of its own, and has given the channel's number free before it does. Whoever opens a
channel in between takes that number, which RabbitMQ still knows, so that it ends the whole connection: "second 'channel.open'
seen". Where ten frames wait to be sent, the answer is even left out, and the number stays in use at RabbitMQ for good. So here
numbers are used in turn, and the queue of what waits to be sent has room.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
import aiormq
from aio_pika.abc import TimeoutType, UnderlayConnection
from aiormq.abc import AbstractChannel
from yarl import URL

HIGHEST = 65_535
"""The highest channel number that there is."""


class _Protocol(aiormq.Connection):
    FRAME_BUFFER_SIZE = 10_000
    """Frames, of which each webhook, acknowledgement and channel in use has one or two."""

    async def channel(self, channel_number: int | None = None, **options: Any) -> AbstractChannel:  # type: ignore[override]
        await self.connected.wait()
        return await super().channel(self._next() if channel_number is None else channel_number, **options)

    @property
    def blocked(self) -> bool:
        """Whether RabbitMQ reads nothing of it: an alarm of memory or disk is set, and something was published."""
        waiting = self.ready()
        try:
            waiting.send(None)  # nobody waits here: what is ready ends in its first step
        except StopIteration:
            return False
        finally:
            waiting.close()
        return True

    def _next(self) -> int:
        """The free number that was not in use for the longest time. Raises ConnectionError: there is none."""
        highest = self.connection_tune.channel_max or HIGHEST
        for _ in range(highest):
            self.last_channel = self.last_channel % highest + 1
            if self.last_channel not in self.channels:
                return self.last_channel
        raise ConnectionError(f"all of its {highest} channels are in use")


class _Transport(UnderlayConnection):
    @classmethod
    async def make_connection(
        cls,
        url: URL,
        timeout: TimeoutType = None,  # noqa: ASYNC109  the library passes it
        **options: Any,
    ) -> aiormq.abc.AbstractConnection:
        connection = _Protocol(url, **options)
        async with asyncio.timeout(timeout):
            await connection.connect()
        return connection


class Connection(aio_pika.Connection):
    """For ``aio_pika.connect(connection_class=...)``."""

    @property
    def blocked(self) -> bool:
        """See :attr:`_Protocol.blocked`."""
        protocol = None if self.transport is None else self.transport.connection
        return isinstance(protocol, _Protocol) and not protocol.is_closed and protocol.blocked

    async def connect(self, timeout: TimeoutType = None) -> None:  # noqa: ASYNC109  as above
        self.transport = await _Transport.connect(self.url, self._on_connection_close, timeout=timeout, **self.kwargs)
        await self._on_connected()
