"""Claims on RabbitMQ: a queue for each key with one token in it, delivered to whoever holds the claim.

The queue has a single active consumer, the one that came first. It gets a token and never acknowledges it; when its channel or
connection ends, however it ends, RabbitMQ hands the token to the next. So those who wait are told, in their order, and nobody
asks again and again. Everyone brings a token: the first may die before it has, and only the active consumer is given any. The
queue goes with its last consumer.
"""

from __future__ import annotations

import asyncio
import logging

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity

from shared.broker.amqp.link import AmqpLink
from shared.broker.amqp.topology import Table
from shared.broker.cancellation import attempted, honouring_cancellation
from shared.broker.claims import RELEASE
from shared.errors import PermanentError
from shared.instance import INSTANCE

TURN = 1.0
"""Seconds within which the token comes where nobody else was there; else somebody came in the same instant, and was first."""
CUT_OFF = 60.0
"""Seconds after which a call that has no answer is given up, long after whoever asked: a broker that is short of memory or disk
stops reading what we send."""
_TRIES = 3
_ARGUMENTS: Table = {
    "x-queue-type": "classic",
    "x-single-active-consumer": True,
    "x-max-length": 1,  # tokens that nobody holds
    "x-expires": 60_000,  # milliseconds: of a queue whose first consumer died before it consumed
}
_log = logging.getLogger(__name__)


class AmqpClaims:
    """See :class:`shared.broker.transport.ClaimStore`.

    Args:
        link: of claims alone: what goes wrong with one must not end the deliveries' connection.
    """

    def __init__(self, link: AmqpLink) -> None:
        self._link = link
        self._lives: set[asyncio.Task[None]] = set()

    async def acquire(self, key: str, patience: float) -> _Claim | None:
        claim = _Claim(self._link, self._link.topology.claim(key), patience)
        life = asyncio.create_task(claim.live(), name="claim")
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        try:
            if await claim.answer:
                return claim
        except BaseException:
            claim.leave()
            raise
        await asyncio.wait((life,), timeout=RELEASE)
        return None


class _Claim:
    """One that is asked for, waited for, held and left.

    All calls to the broker are those of :meth:`live`, in a task that nobody cancels: the library closes the channel of a call that
    is cut off, and uses its number again while the broker still knows it. Then the broker closes the connection, and every claim of
    this process goes with it.
    """

    def __init__(self, link: AmqpLink, queue: str, patience: float) -> None:
        self._link = link
        self._queue = queue
        self._patience = patience
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[bool] = loop.create_future()
        """Whether to go on."""
        self._left: asyncio.Future[bool] = loop.create_future()
        self._closed = asyncio.Event()

    def leave(self) -> None:
        _tell(self._left, True)
        _tell(self.answer, False)

    async def release(self) -> None:
        self.leave()
        await self._closed.wait()

    async def live(self) -> None:
        try:
            await self._ask()
        except ChannelAccessRefused:
            self._fail(
                PermanentError(
                    f"RabbitMQ does not let this user declare and use queues like {self._queue}", code="broker_refused"
                )
            )
        except Exception as error:  # noqa: BLE001  whoever asked decides
            self._fail(error)
        finally:
            self._closed.set()

    async def _ask(self) -> None:
        for _ in range(_TRIES):
            channel = await self._link.open_bare_channel(CUT_OFF)
            try:
                with honouring_cancellation():
                    await self._ask_on(channel)
            except ChannelNotFoundEntity:  # its last consumer left between our two steps, and the queue with it
                continue
            else:
                return
            finally:
                await attempted(channel.close(), CUT_OFF)
        self._go_on_without("does not answer")

    async def _ask_on(self, channel: AbstractChannel) -> None:
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def gone(_: object) -> None:
            _tell(turn, False)

        async def token(_: DeliveredMessage) -> None:
            _tell(turn, True)

        if self._left.done():
            return
        channel.closing.add_done_callback(gone)
        channel.on_consumer_cancel_callbacks.add(gone)
        declared = await channel.queue_declare(
            self._queue, durable=True, auto_delete=True, arguments=_ARGUMENTS, timeout=CUT_OFF
        )
        others = bool(declared.consumer_count)
        if others and not self._patience:
            _tell(self.answer, False)
            return
        await channel.basic_consume(self._queue, token, consumer_tag=INSTANCE, timeout=CUT_OFF)
        await channel.basic_publish(b"", routing_key=self._queue, timeout=CUT_OFF)
        patience = self._patience if others else max(self._patience, TURN)
        await asyncio.wait((turn, self._left), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            _tell(self.answer, False)
        elif turn.result():
            _tell(self.answer, True)
            await self._left
        else:
            self._go_on_without("is gone")

    def _fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def _go_on_without(self, why: str) -> None:
        """As the holder of nothing: other claims may well be answered, so this is no error."""
        _log.info("the claim's queue %s %s, as when its node is down: going on without", self._queue, why)
        _tell(self.answer, True)


def _tell(future: asyncio.Future[bool], answer: bool) -> None:
    if not future.done():
        future.set_result(answer)
