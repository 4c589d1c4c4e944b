"""The broker seam: what the ingress and the consumer know of a broker.

Promises that every implementation keeps, and that one conformance suite (``tests/integration/broker``) checks on all:

- ``publish`` returns only after the broker has the message on disk (confirm), or raises ``TransientError`` with code
  ``broker_unavailable``; never later than ``publish_timeout``.
- At most ``prefetch`` deliveries of one ``deliveries()`` iterator are unsettled at a time.
- A delivery is settled exactly once, by ``ack``, ``retry`` or ``dead_letter``; a second settlement raises ``RuntimeError``.
  One that is never settled (crash, cancellation, lost connection) is delivered again.
- ``retry`` and ``dead_letter`` publish the copy, await its confirm, and only then settle the original: a crash in between
  leaves a duplicate, never a loss. Attempts and their failures travel with the message.
- A message that cannot be parsed, and one that was delivered more often than ``delivery_limit`` without an outcome (it kills
  its consumers), is dead-lettered by the implementation, not handed out.
- Live messages go before backfill, and do not wait for one to end: if backfill holds the last slot, its youngest delivery is
  ``recalled``.
- Lost connections are re-established without the caller's help; iterators go on.
- A claim has one holder among all connections to the broker. It ends when it is left, and with the holder's process or
  connection. It saves work and guards nothing: where the broker cannot tell, everybody goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.broker.passed_over import PassedOver
from shared.events import ConversionEvent
from shared.messages import Attempt, ConversionRequest, DeadLetter, Failure
from shared.request_filter import Conditions

Headers = Mapping[str, str]
"""``traceparent``, ``tracestate`` and the like."""


@dataclass(frozen=True, slots=True)
class BrokerStats:
    """Queue state at one instant; None where the broker cannot tell."""

    ready: int | None
    in_flight: int | None
    retrying: int | None
    dead: int | None
    consumers: int | None
    oldest_age_seconds: float | None = None


class Delivery(Protocol):
    """One message handed to this consumer."""

    @property
    def request(self) -> ConversionRequest: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def attempts(self) -> Sequence[Attempt]:
        """Earlier attempts that ended with a failure, oldest first."""
        ...

    @property
    def postponed(self) -> tuple[datetime, str] | None:
        """When it was last handed back for a failure that cost no attempt, and that failure's code."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether an earlier delivery ended without an outcome (crash, lost connection, handed back after it had begun)."""
        ...

    @property
    def recalled(self) -> asyncio.Event:
        """Set when a live push waits for the slot of this backfill: stop, and :meth:`release` it."""
        ...

    @property
    def published_at(self) -> datetime:
        """When it was first accepted by the broker."""
        ...

    async def ack(self) -> None: ...
    async def retry(self, delay: float, attempt: Attempt) -> None:
        """Come back after ``delay`` seconds (the broker may round up to its next step), ``attempt`` appended."""
        ...

    async def dead_letter(
        self,
        failure: Failure,
        attempt: Attempt | None = None,
        told: Callable[[DeadLetter], Awaitable[None]] | None = None,
    ) -> DeadLetter:
        """``told`` is awaited when the letter is confirmed and before the original is settled: who dies before it has told of the
        letter is delivered the original again, and nobody is told of a letter that is not there.
        """
        ...

    async def release(self, delay: float = 0, *, begun: bool = False, code: str = "") -> None:
        """Hand back, not counted as an attempt: at drain, for a push, or for ``delay`` seconds while its registry is down.
        ``begun``: the conversion may have put its target already; whoever gets it next is told by :attr:`redelivered`.
        ``code``: of the failure that it is handed back for, kept as :attr:`postponed`.
        """
        ...

    async def extend(self) -> None:
        """Tell the broker that work goes on; call at least every ``Broker.extend_interval`` seconds."""
        ...


class DeadLetterFilter(Conditions):
    """All must hold; times are those of death."""

    ids: frozenset[str] = frozenset()


class DeadLetters(Protocol):
    """The dead-letter queue. Reading never removes, reorders or loses; removal follows a confirmed copy."""

    def list(self, where: DeadLetterFilter | None = None) -> AsyncIterator[DeadLetter]:
        """Oldest first."""
        ...

    async def get(self, dead_letter_id: str) -> DeadLetter | None: ...
    async def replay(self, dead_letter_id: str, headers: Headers | None = None) -> ConversionRequest | None:
        """Publish its request to the work queue again (attempts cleared, ``replay_of`` and ``replayed_trace`` set), await the
        confirm, then remove it. None if there is no such dead letter any more; ``PermanentError`` code ``not_replayable``
        if its body never was a request.
        """
        ...

    async def discard(self, dead_letter_id: str) -> bool: ...
    async def add(self, letter: DeadLetter) -> None:
        """Import; the same id twice stays one."""
        ...


class EventStream(Protocol):
    """The week of history behind the status API."""

    async def publish(self, *events: ConversionEvent) -> None:
        """Best effort within a bounded time; raises ``TransientError`` (``broker_unavailable``). Several at once travel together
        and in order, which costs little more than one.
        """
        ...

    def read(
        self, *, since: datetime | None = None, follow: bool = True, passed_over: PassedOver | None = None
    ) -> AsyncGenerator[ConversionEvent]:
        """From the oldest kept (or ``since``); with ``follow`` it goes on with new ones for ever, over reconnects. What cannot
        be read is left out, and ``passed_over`` told.
        """
        ...

    def bodies(self, *, since: datetime | None = None, follow: bool = True) -> AsyncGenerator[bytes]:
        """The same as messages (:func:`shared.broker.wire.encode_events`), for who reads very many; with ``since``, some from
        before it too.
        """
        ...


class Claims(Protocol):
    """Who does what, among all consumers of one broker."""

    def claim(
        self, key: str, patience: float, unanswered: Callable[[str], object] | None = None
    ) -> AbstractAsyncContextManager[bool]:
        """Claim ``key`` until leaving; wait up to ``patience`` seconds for whoever has it (0: not at all).

        False: another has it still. True: go on, either as the holder or because the broker cannot tell: then ``unanswered``
        is told why, as an error code. Never raises, and takes at most a few seconds beside the patience.
        """
        ...


class Broker(Claims, Protocol):
    """An open connection; ``async with open_broker(...) as broker``."""

    extend_interval: float
    """Seconds."""

    async def publish(
        self, request: ConversionRequest, headers: Headers | None = None, *, delay: float = 0
    ) -> None: ...
    def deliveries(self, prefetch: int) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Entering subscribes; leaving stops taking new ones and hands unsettled, not yet yielded messages back. Deliveries
        already yielded can still be settled after leaving, until the broker closes.
        """
        ...

    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def events(self) -> EventStream: ...
    @property
    def cancellations(self) -> EventStream:
        """``cancelling`` events alone, kept as long as the history: every consumer reads them all."""
        ...

    async def stats(self) -> BrokerStats: ...
    async def check_health(self) -> None:
        """Raises ``TransientError`` (``broker_unavailable``) with the reason."""
        ...
