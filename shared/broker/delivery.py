"""One delivery, settled exactly once, over any transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from shared.broker.cancellation import finish
from shared.broker.transport import Taken, Transport
from shared.broker.wire import Queued, bounded_attempts, encode, encode_dead_letter, letter_of
from shared.messages import Attempt, ConversionRequest, DeadLetter, Failure


class QueuedDelivery:
    """A :class:`shared.broker.api.Delivery`."""

    def __init__(self, transport: Transport, taken: Taken, queued: Queued) -> None:
        self._transport = transport
        self._taken = taken
        self._queued = queued
        self._settled = False

    def __repr__(self) -> str:
        return f"<delivery of {self._queued.request.id}>"

    @property
    def request(self) -> ConversionRequest:
        return self._queued.request

    @property
    def headers(self) -> dict[str, str]:
        return dict(self._queued.headers)

    @property
    def attempts(self) -> Sequence[Attempt]:
        return self._queued.attempts

    @property
    def postponed(self) -> tuple[datetime, str] | None:
        return self._queued.postponed

    @property
    def redelivered(self) -> bool:
        return self._queued.begun or self._taken.crashes + self._queued.crashes > 0

    @property
    def recalled(self) -> asyncio.Event:
        return self._taken.recalled

    @property
    def published_at(self) -> datetime:
        return self._queued.published_at

    async def ack(self) -> None:
        self._settle()
        await finish(self._acknowledge())

    async def retry(self, delay: float, attempt: Attempt) -> None:
        self._settle()
        await finish(self._replace(delay, (*self._queued.attempts, attempt), crashes=0))

    async def release(self, delay: float = 0, *, begun: bool = False, code: str = "") -> None:
        # A copy, not a negative acknowledgement: brokers count those as deliveries without an outcome, and a message that is
        # handed back while its registry is down would end as one that kills its consumers.
        self._settle()
        crashes = self._queued.crashes + self._taken.crashes
        begun = begun or self._queued.begun
        postponed = (datetime.now(UTC), code) if code else self._queued.postponed
        replaced = self._replace(delay, self._queued.attempts, crashes=crashes, begun=begun, postponed=postponed)
        await finish(replaced)

    async def dead_letter(
        self,
        failure: Failure,
        attempt: Attempt | None = None,
        told: Callable[[DeadLetter], Awaitable[None]] | None = None,
    ) -> DeadLetter:
        self._settle()
        attempts = self._queued.attempts if attempt is None else (*self._queued.attempts, attempt)
        letter = letter_of(self._queued, failure, died_at=datetime.now(UTC), attempts=attempts)
        await finish(self._bury(letter, told))
        return letter

    async def extend(self) -> None:
        if not self._settled:
            await self._taken.extend()

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError(f"the delivery of {self._queued.request.id} is settled already")
        self._settled = True

    async def _acknowledge(self) -> None:
        try:
            await self._taken.ack()
        finally:
            await self._taken.drop()

    async def _replace(
        self,
        delay: float,
        attempts: Sequence[Attempt],
        *,
        crashes: int,
        begun: bool = False,
        postponed: tuple[datetime, str] | None = None,
    ) -> None:
        try:
            copy = Queued(
                request=self._queued.request,
                attempts=bounded_attempts(attempts),
                headers=self._queued.headers,
                uid=self._queued.uid,
                published_at=self._queued.published_at,
                not_before=datetime.now(UTC) + timedelta(seconds=delay) if delay > 0 else None,
                crashes=crashes,
                begun=begun,
                postponed=postponed,
            )
            await self._transport.publish(encode(copy), self._queued.request.priority, delay=delay)
            await self._taken.ack()
        finally:
            await self._taken.drop()

    async def _bury(self, letter: DeadLetter, told: Callable[[DeadLetter], Awaitable[None]] | None) -> None:
        try:
            await self._transport.dead.put(letter, encode_dead_letter(letter, self._queued.headers))
            if told is not None:
                await told(letter)
            await self._taken.ack()
        finally:
            await self._taken.drop()
