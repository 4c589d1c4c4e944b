"""The :class:`shared.broker.api.Broker` over any :class:`shared.broker.transport.Transport`: what is policy, written once."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

from shared.broker.api import BrokerStats, EventStream, Headers
from shared.broker.cancellation import finish
from shared.broker.claims import ClaimDesk
from shared.broker.dead_letters import DeadLetterBox
from shared.broker.delivery import QueuedDelivery
from shared.broker.transport import Taken, Transport
from shared.broker.wire import (
    MalformedMessageError,
    Queued,
    decode,
    encode,
    encode_dead_letter,
    letter_of,
    malformed_letter,
)
from shared.errors import IcsError
from shared.messages import ConversionRequest, DeadLetter, Failure

_log = logging.getLogger(__name__)


def delivery_limit_failure(limit: int) -> Failure:
    """Why a message that was handed out again and again without an outcome is a dead letter."""
    return Failure(
        code="delivery_limit",
        kind="permanent",
        message=f"more than {limit} deliveries ended without an outcome: it may crash its consumers; replay it after a fix",
        details={"delivery_limit": limit},
    )


class QueueBroker:
    """See :class:`shared.broker.api.Broker` for the promises."""

    def __init__(self, transport: Transport, *, delivery_limit: int) -> None:
        self._transport = transport
        self._delivery_limit = delivery_limit
        self._dead_letters = DeadLetterBox(transport)
        self._claims = ClaimDesk(transport.claims)
        self.extend_interval = transport.extend_interval

    @property
    def dead_letters(self) -> DeadLetterBox:
        return self._dead_letters

    @property
    def events(self) -> EventStream:
        return self._transport.events

    @property
    def cancellations(self) -> EventStream:
        return self._transport.cancellations

    async def publish(self, request: ConversionRequest, headers: Headers | None = None, *, delay: float = 0) -> None:
        not_before = datetime.now(UTC) + timedelta(seconds=delay) if delay > 0 else None
        message = encode(Queued(request=request, headers=dict(headers or {}), not_before=not_before))
        await self._transport.publish(message, request.priority, delay=delay, deduplicate=request.id)

    @asynccontextmanager
    async def deliveries(self, prefetch: int) -> AsyncIterator[AsyncIterator[QueuedDelivery]]:
        if prefetch < 1:
            raise ValueError("prefetch must be at least 1")
        async with self._transport.subscribe(prefetch) as taken, aclosing(self._handed_out(taken)) as deliveries:
            yield deliveries

    def claim(
        self, key: str, patience: float, unanswered: Callable[[str], object] | None = None
    ) -> AbstractAsyncContextManager[bool]:
        return self._claims.claim(key, patience, unanswered)

    async def stats(self) -> BrokerStats:
        return await self._transport.stats()

    async def check_health(self) -> None:
        await self._transport.check_health()

    async def _handed_out(self, messages: AsyncIterator[Taken]) -> AsyncGenerator[QueuedDelivery]:
        async for taken in messages:
            delivery = await self._admit(taken)
            if delivery is not None:
                yield delivery

    async def _admit(self, taken: Taken) -> QueuedDelivery | None:
        """What a consumer may see; everything else is put where it belongs, or left to be delivered again."""
        now = datetime.now(UTC)
        try:
            queued = decode(taken.message)
        except MalformedMessageError as error:
            letter = malformed_letter(taken.message, error.message, died_at=now)
            await self._bury(taken, letter)
            return None
        if taken.crashes + queued.crashes > self._delivery_limit:
            letter = letter_of(queued, delivery_limit_failure(self._delivery_limit), died_at=now)
            await self._bury(taken, letter)
            return None
        # A delay longer than the transport's longest comes here early; under a second is clock skew.
        if queued.not_before is not None and (wait := (queued.not_before - now).total_seconds()) > 1:
            await finish(self._postpone(taken, queued, wait))
            return None
        return QueuedDelivery(self._transport, taken, queued)

    async def _postpone(self, taken: Taken, queued: Queued, wait: float) -> None:
        try:
            await self._transport.publish(encode(queued), queued.request.priority, delay=wait)
            await taken.ack()
        except IcsError as error:
            _log.warning("a delayed message could not be put back, it will be delivered again: %s", error.message)
        finally:
            await taken.drop()

    async def _bury(self, taken: Taken, letter: DeadLetter) -> None:
        async def bury() -> None:
            try:
                await self._transport.dead.put(letter, encode_dead_letter(letter, taken.message.headers))
                await taken.ack()
                _log.warning("dead-lettered a message: %s: %s", letter.failure.code, letter.failure.message)
            except IcsError as error:
                _log.warning("a message could not be dead-lettered, it will be delivered again: %s", error.message)
            finally:
                await taken.drop()

        await finish(bury())
