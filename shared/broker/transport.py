"""The narrow seam under :class:`shared.broker.queue.QueueBroker`: what a broker product must be able to do.

Policy (attempts, delivery limit, dead letters, replay, settling once) is written once above it; a transport only moves
bytes: publish with confirm, hand out with a bound, keep dead letters, keep events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shared.broker.api import BrokerStats, EventStream
from shared.broker.wire import WireMessage
from shared.errors import TransientError
from shared.messages import DeadLetter, Priority


def unavailable(reason: str) -> TransientError:
    """``broker_unavailable``; ``reason`` must hold no URL."""
    return TransientError(f"the broker cannot be used: {reason}", code="broker_unavailable")


class Taken(Protocol):
    """A work message that this process holds; it counts against the prefetch until :meth:`ack`."""

    @property
    def message(self) -> WireMessage: ...
    @property
    def crashes(self) -> int:
        """Deliveries of this copy, before this one, that ended without an outcome."""
        ...

    @property
    def recalled(self) -> asyncio.Event:
        """See :class:`shared.broker.api.Delivery`."""
        ...

    async def ack(self) -> None:
        """Remove it. Raises ``TransientError`` (``broker_unavailable``) if the broker did not hear it: it comes again."""
        ...

    async def extend(self) -> None: ...
    async def drop(self) -> None:
        """Frees its slot; what was not acknowledged goes back to the queue. Bounded, never raises."""
        ...


class DeadLetterStore(Protocol):
    """Where a transport keeps dead letters. ``TransientError`` when the broker is away."""

    async def put(self, letter: DeadLetter, message: WireMessage) -> None:
        """Confirmed; a letter whose id is there already stays one."""
        ...

    async def snapshot(self, wanted: Callable[[DeadLetter], bool]) -> Iterable[DeadLetter]:
        """Those that are ``wanted``, oldest first, without taking any. What it gives may make each letter when its turn comes."""
        ...

    def take(self, dead_letter_id: str) -> AbstractAsyncContextManager[TakenLetter | None]:
        """Hold one so that no other process can take it meanwhile (or, where the broker has no lock, with a token that
        makes the second of two racing replays a duplicate that the broker drops). Leaving without ``remove`` leaves it.
        """
        ...


class TakenLetter(Protocol):
    @property
    def letter(self) -> DeadLetter: ...
    @property
    def token(self) -> str:
        """Names this very entry of the store; the same for every process that sees it."""
        ...

    async def remove(self) -> bool:
        """Whether it was still there."""
        ...


class HeldClaim(Protocol):
    async def release(self) -> None:
        """The next holder may come. Called once; may fail."""
        ...


class ClaimStore(Protocol):
    """What :class:`shared.broker.claims.ClaimDesk` needs of a broker. Errors may be of any kind; cancelled, it holds nothing."""

    async def acquire(self, key: str, patience: float) -> HeldClaim | None:
        """Hold ``key`` (32 hex digits); None if another held it for ``patience`` seconds, 0 for at once. A holder that is gone
        without releasing holds nothing any more some seconds later.
        """
        ...


class Transport(Protocol):
    extend_interval: float

    async def publish(self, message: WireMessage, lane: Priority, *, delay: float = 0, deduplicate: str = "") -> None:
        """Confirmed within the publish time-out, else ``TransientError`` (``broker_unavailable``). Brokers that can, drop
        a second message of the same ``deduplicate`` within their window.
        """
        ...

    def subscribe(self, prefetch: int) -> AbstractAsyncContextManager[AsyncIterator[Taken]]:
        """At most ``prefetch`` of them not dropped; live before backfill. After leaving, none is waiting unseen."""
        ...

    @property
    def dead(self) -> DeadLetterStore: ...
    @property
    def events(self) -> EventStream: ...
    @property
    def cancellations(self) -> EventStream: ...
    @property
    def claims(self) -> ClaimStore: ...
    async def stats(self) -> BrokerStats: ...
    async def check_health(self) -> None: ...
