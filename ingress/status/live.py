"""Live updates to browsers: who changed, coalesced per client, so that a slow one gets the newest state and never a backlog.

Only ids are queued; what is sent is read from the history when the client is ready for it. Event ids are the broker's own, so
``Last-Event-ID`` finds its place on every replica.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_RECENT = 4096
_PENDING = 2000
_PAUSE = 0.1
"""Seconds between two batches to one client."""


@dataclass(frozen=True, slots=True)
class Update:
    """``conversion`` changed; None means that too much did: load everything again."""

    event_id: str
    conversion: str | None


class Live:
    """Fans changes out to clients.

    Args:
        limit: clients at most; whoever subscribes looks at :attr:`full` first, and whose place is taken meanwhile gets nothing.
    """

    def __init__(self, limit: int = 500) -> None:
        self._limit = limit
        self._clients: set[_Client] = set()
        self._recent: deque[tuple[str, str]] = deque(maxlen=_RECENT)
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether there is no room for one more client."""
        return len(self._clients) >= self._limit

    def changed(self, event_id: str, conversion_id: str) -> None:
        self._recent.append((event_id, conversion_id))
        for client in self._clients:
            client.add(event_id, conversion_id)

    def close(self) -> None:
        """End every stream, so that the server can stop; later subscriptions end at once."""
        self._closed = True
        for client in self._clients:
            client.wake.set()

    @contextmanager
    def subscribe(self, last_event_id: str = "") -> Iterator[_Client]:
        """``last_event_id``: the newest that the client has seen; what came after it comes first."""
        client = _Client()
        if last_event_id:
            client.resume(self._since(last_event_id))
        if not self.full:
            self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)

    async def updates(self, client: _Client, heartbeat: float) -> AsyncIterator[list[Update]]:
        """Batches of updates; an empty one each ``heartbeat`` seconds of silence; ends when the hub closes, or has no room."""
        while not self._closed and client in self._clients:
            try:
                async with asyncio.timeout(heartbeat):
                    await client.wake.wait()
            except TimeoutError:
                yield []
                continue
            if batch := client.take():
                yield batch
                await asyncio.sleep(_PAUSE)

    def _since(self, event_id: str) -> list[tuple[str, str]] | None:
        """What changed after ``event_id``; None if it is too long ago to tell."""
        found: list[tuple[str, str]] = []
        for item in reversed(self._recent):
            if item[0] == event_id:
                return found[::-1]
            found.append(item)
        return None


class _Client:
    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self._pending: dict[str, str] = {}
        self._reset = ""

    def add(self, event_id: str, conversion_id: str) -> None:
        self._pending.pop(conversion_id, None)  # its place is its newest change's
        self._pending[conversion_id] = event_id
        if len(self._pending) > _PENDING:
            self._pending.clear()
            self._reset = event_id
        self.wake.set()

    def resume(self, missed: list[tuple[str, str]] | None) -> None:
        if missed is None:
            self._reset = "reset"
            self.wake.set()
            return
        for event_id, conversion_id in missed:
            self.add(event_id, conversion_id)

    def take(self) -> list[Update]:
        reset, pending = self._reset, self._pending
        self._reset, self._pending = "", {}
        self.wake.clear()
        first = [Update(reset, None)] if reset else []
        return first + [Update(event_id, conversion_id) for conversion_id, event_id in pending.items()]
