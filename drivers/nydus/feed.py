"""From the event loop to a thread: bytes that arrive asynchronously, read by blocking calls, with back-pressure both ways."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

T = TypeVar("T")

_ROOM = 4 << 20
"""Bytes that may wait for the thread."""
_LOW = _ROOM // 4
"""The writer goes on when so few are left: waking the loop costs a fight for the interpreter."""


class FeedClosedError(Exception):
    """Raised in the reading thread when nobody wants its work any more."""


class ByteFeed:
    """One writer (a task on the loop that made it) and one reader (a thread)."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._condition = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._ended = False
        self._error: BaseException | None = None
        self._room = asyncio.Event()

    async def pump(self, pieces: AsyncIterator[bytes]) -> None:
        """Hand on everything; an error of ``pieces`` is raised again where the thread reads."""
        try:
            async for piece in pieces:
                if self._put(piece):
                    await self._room.wait()
        except asyncio.CancelledError:
            self.close()
            raise
        except Exception as error:  # noqa: BLE001 - raised again in the thread
            self._end(error)
        else:
            self._end(None)

    def _put(self, piece: bytes) -> bool:
        """Returns whether the writer must wait for room."""
        with self._condition:
            self._pieces.append(piece)
            self._waiting += len(piece)
            self._condition.notify()
            full = self._waiting > _ROOM
            if full:
                self._room.clear()
            return full

    def _end(self, error: BaseException | None) -> None:
        with self._condition:
            self._ended = True
            self._error = error
            self._condition.notify()

    def close(self) -> None:
        """Wake the thread with :class:`FeedClosedError`; may be called more than once, and after the end."""
        with self._condition:
            self._pieces.clear()
            self._ended = True
            self._error = FeedClosedError()
            self._condition.notify()

    def read(self) -> Iterator[bytes]:
        """For the thread: every piece, then the writer's error if it had one."""
        while True:
            with self._condition:
                while not self._pieces and not self._ended:
                    self._condition.wait()
                if not self._pieces:
                    if self._error is not None:
                        raise self._error
                    return
                piece = self._pieces.popleft()
                before = self._waiting
                self._waiting -= len(piece)
                has_room = self._waiting <= _LOW < before
            if has_room:
                self._loop.call_soon_threadsafe(self._room.set)
            yield piece


@asynccontextmanager
async def feeding(pieces: AsyncIterator[bytes]) -> AsyncIterator[ByteFeed]:
    """A feed that is pumped in the background; leaving ends the thread that reads it."""
    feed = ByteFeed()
    pump = asyncio.create_task(feed.pump(pieces))
    try:
        yield feed
    finally:
        feed.close()
        pump.cancel()
        with suppress(asyncio.CancelledError):
            await pump


async def in_own_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run what blocks on a feed. The loop's few shared threads stay free for those that fill it and take what comes out."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="nydus-walk")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
    finally:
        executor.shutdown(wait=False)
