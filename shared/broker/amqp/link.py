"""One connection to RabbitMQ, made again whenever it is needed and gone; the topology is declared on each."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ChannelPreconditionFailed,
    DeliveryError,
    ProbableAuthenticationError,
)
from aiormq import Channel
from aiormq.abc import AbstractChannel as AbstractBareChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, PublishError

from shared.broker.amqp.connection import Connection
from shared.broker.amqp.publisher import Publisher
from shared.broker.amqp.topology import Topology
from shared.broker.cancellation import attempted, cancellable, honouring_cancellation
from shared.broker.transport import unavailable
from shared.broker.wire import WireMessage
from shared.errors import PermanentError, TransientError
from shared.settings.broker_url import server_urls
from shared.time_limit import TimeLimit
from shared.unreachable import why

T = TypeVar("T")
HEARTBEAT = 15
"""Seconds; a peer that is gone without a word is noticed within two."""
_MISSING = (PublishError, ChannelNotFoundEntity)
"""A message that came back as unroutable, and a queue that was asked for."""
DELETED = 0.5
"""Seconds until what was deleted is declared again: so RabbitMQ tells its consumers. Where a queue was declared again within some
20 ms, they were seen to be told nothing, and to be delivered nothing."""
_LOST = (AMQPError, ConnectionError, OSError, asyncio.TimeoutError, ChannelInvalidStateError, RuntimeError)
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _SharedChannel:
    channel: AbstractChannel
    publisher: Publisher
    uses: int = 0
    """Calls under way."""
    refused: bool = False
    """The broker did not take a message on it."""

    @property
    def usable(self) -> bool:
        return not self.refused and not self.channel.is_closed


class AmqpLink:
    """Channels on demand. Nothing here raises anything but classified errors."""

    def __init__(self, url: str, topology: Topology, *, timeout: float, ca: Path | None = None) -> None:
        self._urls = server_urls(url)
        self._preferred = 0
        """Index of the server that answered last."""
        self.topology = topology
        self.timeout = timeout
        self._limit = TimeLimit(timeout)
        self._ca = ca
        self._connection: AbstractConnection | None = None
        self._shared: _SharedChannel | None = None
        self._locking: AbstractConnection | None = None
        self._doubted = False
        self._declared = 0
        """How often, on this connection and the ones before."""
        self._told_at = -1
        """The same number, when a queue was last said to be missing."""
        self._lock = asyncio.Lock()
        self.closed = False

    def __repr__(self) -> str:
        return f"<AMQP link to {self._where}>"

    @property
    def _where(self) -> str:
        """Every server's ``host`` or ``host:port``."""
        return ", ".join(urlsplit(url).netloc.rpartition("@")[2] for url in self._urls)

    def reason(self, error: BaseException) -> str:
        """Where and why, without the URL, which aio-pika puts into some messages."""
        if self._blocked:
            return self._alarm
        if isinstance(error, TimeoutError):
            return f"no answer from RabbitMQ at {self._where} in time"
        # The library puts the numbers of other errors into its own, and these would read as the system's.
        while isinstance(error, AMQPError) and isinstance(error.__cause__, OSError):
            error = error.__cause__
        return f"RabbitMQ at {self._where}: {why(error)}"

    @property
    def _blocked(self) -> bool:
        return isinstance(self._connection, Connection) and self._connection.blocked

    @property
    def _alarm(self) -> str:
        what = "takes no messages: an alarm is set, see its disk and memory (rabbitmq-diagnostics alarms)"
        return f"RabbitMQ at {self._where} {what}"

    def refuse_if_blocked(self) -> None:
        """Nothing is sent on a blocked connection, and nothing is gained by another one: it goes on when the alarm is over.

        Raises:
            TransientError: ``broker_unavailable``.
        """
        if self._blocked:
            raise unavailable(self._alarm)

    async def close(self) -> None:
        self.closed = True
        if self._connection is not None:
            await attempted(self._connection.close(), self.timeout)

    async def call(self, use: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        """Run ``use`` with the shared channel, within the time-out.

        Raises:
            TransientError: ``broker_unavailable``.
            PermanentError: ``broker_refused``, ``broker_mismatch``.
        """
        return await self._with_channel(lambda shared: cancellable(use(shared.channel)))

    async def publish(self, queue: str, message: WireMessage) -> None:
        """Confirmed, within the time-out. Raises what :meth:`call` raises."""
        await self._with_channel(lambda shared: shared.publisher.publish(queue, message))

    def declare_again(self) -> None:
        """Before the next channel: somebody may have deleted a queue, which costs no connection."""
        self._doubted = True

    async def _with_channel(self, use: Callable[[_SharedChannel], Awaitable[T]]) -> T:
        """Once more where a queue was missing: what came back is nowhere, so that no message is doubled."""
        before = self._declared
        try:
            return await self._once(use)
        except TransientError as error:
            if not isinstance(error.__cause__, _MISSING):
                raise
            if before == self._declared:  # not since we tried
                self._tell_missing()
                self.declare_again()
        await asyncio.sleep(DELETED)
        return await self._once(use)

    def _tell_missing(self) -> None:
        """Once a loss: everybody who publishes meanwhile finds it missing."""
        if self._told_at != self._declared:
            self._told_at = self._declared
            _log.warning("RabbitMQ: a queue is missing; declaring all of them again")

    async def _once(self, use: Callable[[_SharedChannel], Awaitable[T]]) -> T:
        self.refuse_if_blocked()
        shared: _SharedChannel | None = None
        try:
            with self._limit():
                if (shared := self._at_hand()) is None:
                    with honouring_cancellation():
                        shared = await self._channel()
                shared.uses += 1
                return await use(shared)
        except DeliveryError as error:
            # A channel that was opened while a quorum queue had no leader goes on to ask the node that died, and every
            # publish on it is refused for ever: the next one gets a new channel.
            if shared is not None:
                shared.refused = True
            raise unavailable("it does not take the message (a queue is full or missing)") from error
        except RuntimeError as error:  # what the library raises on a connection whose end it has not noticed
            if shared is not None and self._blocked:
                shared.refused = True
            else:
                self._forget(self._connection)
            raise unavailable(self.reason(error)) from error
        except _LOST as error:
            raise unavailable(self.reason(error)) from error
        finally:
            if shared is not None:
                shared.uses -= 1
                if shared.refused and not shared.uses:
                    await attempted(shared.channel.close(), self.timeout)

    async def open_channel(self, *, prefetch: int = 0) -> AbstractChannel:
        """A channel of the caller's own, to be closed by him, which hands back whatever it holds.

        Args:
            prefetch: 0 for no limit.

        Raises:
            TransientError: ``broker_unavailable``.
            PermanentError: ``broker_refused``, ``broker_mismatch``.
        """
        with self._classified():
            async with asyncio.timeout(self.timeout):
                with honouring_cancellation():
                    connection = await self._connected()
                    channel = await connection.channel(publisher_confirms=True)
                    try:
                        if prefetch:
                            await channel.set_qos(prefetch_count=prefetch)
                    except BaseException:
                        await attempted(channel.close(), self.timeout)
                        raise
                    return channel

    async def open_bare_channel(self, patience: float) -> AbstractBareChannel:
        """A channel of the caller's own, to be closed by him, without confirms: the protocol library's. For channels in any number:
        each of aio-pika's leaves some objects behind for as long as the connection lives.

        Args:
            patience: seconds; to be cut off while one is opened may cost the connection.

        Raises:
            TransientError: ``broker_unavailable``.
            PermanentError: ``broker_refused``, ``broker_mismatch``.
        """
        with self._classified():
            async with asyncio.timeout(patience):
                with honouring_cancellation():
                    connection = await self._connected()
                    if connection.transport is None:
                        raise ConnectionError("lost this moment")
                    return await connection.transport.connection.channel(publisher_confirms=False)

    @contextmanager
    def _classified(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self._forget(self._connection)
            raise unavailable(self.reason(error)) from error
        except _LOST as error:
            raise unavailable(self.reason(error)) from error

    @asynccontextmanager
    async def channel(self, *, prefetch: int = 0) -> AsyncIterator[AbstractChannel]:
        """The same, closed at the end. Raises TransientError also for what goes wrong with the connection inside."""
        channel = await self.open_channel(prefetch=prefetch)
        try:
            with honouring_cancellation():
                yield channel
        except _LOST as error:
            raise unavailable(self.reason(error)) from error
        finally:
            await attempted(channel.close(), self.timeout)

    async def current(self) -> object:
        """Something that changes with every new connection. Raises TransientError."""

        async def itself(_channel: AbstractChannel) -> object:
            return self._connection

        return await self.call(itself)

    async def lock_connection(self) -> AbstractConnection:
        """A connection of its own for the dead letters' lock, which is tied to its life."""
        if self._locking is None or self._locking.is_closed:
            self._locking = await self._connect()
        return self._locking

    async def release_lock_connection(self) -> None:
        """Close it: RabbitMQ then removes the lock."""
        locking, self._locking = self._locking, None
        if locking is not None:
            await attempted(locking.close(), self.timeout)

    def _at_hand(self) -> _SharedChannel | None:
        shared = self._shared
        return shared if shared is not None and shared.usable and self._alive else None

    async def _channel(self) -> _SharedChannel:
        connection = await self._connected()
        async with self._lock:
            if self._shared is None or not self._shared.usable:
                # Errors of one publish must not be raised by another: aio-pika matches confirms by tag.
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                self._shared = _SharedChannel(channel, Publisher(cast("Channel", await channel.get_underlay_channel())))
            return self._shared

    @property
    def _alive(self) -> bool:
        return self._connection is not None and not self._connection.is_closed

    async def _connected(self) -> AbstractConnection:
        async with self._lock:
            if self._alive and self._connection is not None:
                self.refuse_if_blocked()
                if self._doubted:
                    await self._declare(self._connection)
                return self._connection
            if self.closed:
                raise unavailable("the connection was closed")
            self._connection = self._shared = None
            connection = await self._connect()
            try:
                await self._declare(connection)
            except BaseException:
                await attempted(connection.close(), self.timeout)
                raise
            self._connection = connection
            # The library's connection does not always know itself that its socket is gone.
            connection.close_callbacks.add(lambda *_: self._forget(connection))
            _log.info("RabbitMQ: connected")
            return connection

    async def _declare(self, connection: AbstractConnection) -> None:
        self._doubted = False
        try:
            channel = await connection.channel()
            try:
                await self.topology.declare(channel)
                self._declared += 1
            finally:
                await attempted(channel.close(), self.timeout)
        except ChannelPreconditionFailed as error:
            raise PermanentError(
                f"RabbitMQ has a queue or exchange of the same name with other settings: {error.args[-1] if error.args else ''}"
                " Delete it when it is empty, or choose another broker.prefix",
                code="broker_mismatch",
            ) from error
        except ChannelAccessRefused as error:
            raise PermanentError(
                f"RabbitMQ does not let this user declare queues that begin with {self.topology.prefix}",
                code="broker_refused",
            ) from error
        except BaseException:
            self._doubted = True
            raise

    def _forget(self, connection: AbstractConnection | None) -> None:
        """The next use connects again."""
        if self._connection is connection:
            self._connection = self._shared = None

    async def _connect(self) -> AbstractConnection:
        """To the first server that takes the connection, beginning with the one that answered last."""
        for _ in self._urls[1:]:
            try:
                return await self._connect_to(self._urls[self._preferred])
            except _LOST as error:
                _log.info("RabbitMQ: a server does not answer (%s); trying the next", type(error).__name__)
                self._preferred = (self._preferred + 1) % len(self._urls)
        return await self._connect_to(self._urls[self._preferred])

    async def _connect_to(self, server: str) -> AbstractConnection:
        context = None
        if urlsplit(server).scheme == "amqps":
            context = ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
        url = server if "heartbeat=" in server else f"{server}{'&' if '?' in server else '?'}heartbeat={HEARTBEAT}"
        try:
            # A server that hangs leaves the others their share of the time.
            return await aio_pika.connect(
                url, timeout=self.timeout / len(self._urls), ssl_context=context, connection_class=Connection
            )
        except (AuthenticationError, ProbableAuthenticationError) as error:
            raise PermanentError(
                "RabbitMQ refuses the user or password of broker.url", code="broker_refused"
            ) from error
