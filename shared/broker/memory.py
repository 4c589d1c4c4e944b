"""The broker without a broker: for unit tests and trials. Same bytes, same limits, same behaviour; nothing outlives the process.

:class:`MemoryServer` is the state, :class:`MemoryTransport` one connection to it; closing a connection hands back what it
holds, as a real broker does when a process dies.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from shared.broker.api import BrokerStats
from shared.broker.event_stream import EventReading
from shared.broker.memory_claims import MemoryClaims
from shared.broker.slots import Slots
from shared.broker.transport import unavailable
from shared.broker.wire import WireMessage, decode_dead_letter, encode_events
from shared.events import ConversionEvent
from shared.messages import DeadLetter, Failure, Priority

EXTEND_INTERVAL = 10.0
_UNKNOWN = Failure(code="unclassified", kind="permanent", message="put into the dead-letter queue by hand")


@dataclass(slots=True)
class _Stored:
    message: WireMessage
    lane: Priority
    since: datetime
    crashes: int = 0


class MemoryServer:
    """What a broker would keep on disk."""

    def __init__(self) -> None:
        self.lanes: dict[Priority, deque[_Stored]] = {"live": deque(), "backfill": deque()}
        self.dead: dict[str, tuple[WireMessage, str]] = {}
        self.events: list[bytes] = []
        self.cancellations: list[bytes] = []
        self.claimed: set[str] = set()
        self.retrying: dict[int, tuple[_Stored, asyncio.TimerHandle]] = {}
        self.in_flight = 0
        self.consumers = 0
        self.available = True
        """Set to False to act like a broker that is away."""
        self.changed = asyncio.Condition()
        self._serial = itertools.count()
        self._wakers: set[asyncio.Task[None]] = set()

    def check(self) -> None:
        if not self.available:
            raise unavailable("it is stopped")

    def enqueue(self, stored: _Stored, *, front: bool = False) -> None:
        lane = self.lanes[stored.lane]
        (lane.appendleft if front else lane.append)(stored)
        self.wake()

    def enqueue_later(self, stored: _Stored, delay: float) -> None:
        key = next(self._serial)

        def due() -> None:
            del self.retrying[key]
            self.enqueue(stored)

        self.retrying[key] = (stored, asyncio.get_running_loop().call_later(delay, due))

    def bury(self, dead_letter_id: str, message: WireMessage) -> None:
        self.dead.setdefault(dead_letter_id, (message, str(next(self._serial))))

    def wake(self) -> None:
        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._wakers.add(task)
        task.add_done_callback(self._wakers.discard)


class _MemoryTaken:
    def __init__(self, transport: MemoryTransport, stored: _Stored, slots: Slots) -> None:
        self._transport = transport
        self._stored = stored
        self._slots = slots
        self._slot = slots.occupy(stored.lane)
        self.recalled = self._slot.recalled

    @property
    def message(self) -> WireMessage:
        return self._stored.message

    @property
    def crashes(self) -> int:
        return self._stored.crashes

    async def ack(self) -> None:
        self._transport.server.check()
        if self._transport.holding.pop(id(self._stored), None) is None:
            raise unavailable("the connection that delivered this message is closed")
        self._transport.server.in_flight -= 1

    async def extend(self) -> None:
        pass

    async def drop(self) -> None:
        self._slots.vacate(self._slot)
        self._transport.hand_back(self._stored)
        self._transport.server.wake()


class MemoryTransport:
    """One connection."""

    extend_interval = EXTEND_INTERVAL

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.holding: dict[int, _Stored] = {}
        self.dead = _MemoryDeadLetters(server)
        self.events = _MemoryEvents(server, server.events)
        self.cancellations = _MemoryEvents(server, server.cancellations)
        self.claims = MemoryClaims(server)

    async def close(self) -> None:
        self.claims.close()
        for stored in reversed(list(self.holding.values())):
            self.hand_back(stored)

    def hand_back(self, stored: _Stored) -> None:
        """What this connection holds no more goes to the front of its queue; nothing happens to what it does not hold."""
        if self.holding.pop(id(stored), None) is not None:
            self.server.in_flight -= 1
            stored.crashes += 1
            self.server.enqueue(stored, front=True)

    async def publish(self, message: WireMessage, lane: Priority, *, delay: float = 0, deduplicate: str = "") -> None:
        # Without a window: as on RabbitMQ, a second message of the same id is delivered, and the consumer converges.
        del deduplicate
        self.server.check()
        stored = _Stored(WireMessage(bytes(message.body), dict(message.headers)), lane, datetime.now(UTC))
        if delay > 0:
            self.server.enqueue_later(stored, delay)
        else:
            self.server.enqueue(stored)

    @asynccontextmanager
    async def subscribe(self, prefetch: int) -> AsyncIterator[AsyncIterator[_MemoryTaken]]:
        self.server.consumers += 1
        try:
            async with aclosing(self._messages(Slots(prefetch))) as messages:
                yield messages
        finally:
            self.server.consumers -= 1

    async def stats(self) -> BrokerStats:
        self.server.check()
        waiting = [stored for lane in self.server.lanes.values() for stored in lane]
        oldest = min((stored.since for stored in waiting), default=None)
        return BrokerStats(
            ready=len(waiting),
            in_flight=self.server.in_flight,
            retrying=len(self.server.retrying),
            dead=len(self.server.dead),
            consumers=self.server.consumers,
            oldest_age_seconds=None if oldest is None else (datetime.now(UTC) - oldest).total_seconds(),
        )

    async def check_health(self) -> None:
        self.server.check()

    async def _messages(self, slots: Slots) -> AsyncGenerator[_MemoryTaken]:
        server = self.server
        while True:
            async with server.changed:
                await server.changed.wait_for(lambda: self._next_lane(slots) is not None)
                lane = self._next_lane(slots)
                if lane is None:
                    continue
                stored = server.lanes[lane].popleft()
                server.in_flight += 1
                self.holding[id(stored)] = stored
            yield _MemoryTaken(self, stored, slots)

    def _next_lane(self, slots: Slots) -> Priority | None:
        if self.server.lanes["live"]:
            slots.recall()
            return "live" if slots.free else None
        return "backfill" if slots.backfill_fits and self.server.lanes["backfill"] else None


@dataclass(frozen=True, slots=True)
class _MemoryLetter:
    server: MemoryServer
    letter: DeadLetter
    token: str

    async def remove(self) -> bool:
        self.server.check()
        return self.server.dead.pop(self.letter.id, None) is not None


class _MemoryDeadLetters:
    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._lock = asyncio.Lock()

    async def put(self, letter: DeadLetter, message: WireMessage) -> None:
        self._server.check()
        self._server.bury(letter.id, message)

    async def snapshot(self, wanted: Callable[[DeadLetter], bool]) -> Sequence[DeadLetter]:
        self._server.check()
        letters = [_read(message) for message, _token in self._server.dead.values()]
        return [letter for letter in letters if wanted(letter)]

    @asynccontextmanager
    async def take(self, dead_letter_id: str) -> AsyncIterator[_MemoryLetter | None]:
        async with self._lock:
            self._server.check()
            entry = self._server.dead.get(dead_letter_id)
            yield None if entry is None else _MemoryLetter(self._server, _read(entry[0]), entry[1])


def _read(message: WireMessage) -> DeadLetter:
    return decode_dead_letter(message, fallback=_UNKNOWN, died_at=datetime.now(UTC))


class _MemoryEvents(EventReading):
    def __init__(self, server: MemoryServer, kept: list[bytes]) -> None:
        self._server = server
        self._kept = kept

    async def publish(self, *events: ConversionEvent) -> None:
        self._server.check()
        self._kept += encode_events(events)
        self._server.wake()

    def _has_more(self, position: int) -> bool:
        return position < len(self._kept)

    async def bodies(self, *, since: datetime | None = None, follow: bool = True) -> AsyncGenerator[bytes]:
        del since  # it is little, and from before it is allowed
        position = 0
        while True:
            while position < len(self._kept):
                position += 1
                yield self._kept[position - 1]
            if not follow:
                return
            async with self._server.changed:
                await self._server.changed.wait_for(partial(self._has_more, position))


@asynccontextmanager
async def open_memory(server: MemoryServer) -> AsyncIterator[MemoryTransport]:
    """A connection to ``server``."""
    transport = MemoryTransport(server)
    try:
        yield transport
    finally:
        await transport.close()
