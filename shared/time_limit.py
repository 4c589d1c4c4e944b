"""The time limit of very many short blocks: ``asyncio.timeout`` with one timer of the event loop for all of them together.

A timer that is set and cancelled for each webhook and each publish costs several microseconds, and hardly one of them ever fires.
"""

from __future__ import annotations

import asyncio
from collections import deque


class TimeLimit:
    """``with limit():`` raises ``TimeoutError`` at the end of a block that is not over after ``seconds``; what it waits for then is
    cancelled. One event loop only.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: deque[_Block] = deque()
        """In the order in which they expire; those that are over go as soon as they are the oldest."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Blocks that are remembered."""
        return len(self._begun)

    def __call__(self) -> _Block:
        return _Block(self)

    def begin(self, block: _Block) -> None:
        begun = self._begun
        while begun and begun[0].over:
            begun.popleft()
        begun.append(block)
        loop = asyncio.get_running_loop()
        block.deadline = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(block.deadline, self._look)

    def _look(self) -> None:
        loop, begun = asyncio.get_running_loop(), self._begun
        self._timer, now = None, loop.time()
        while begun and (begun[0].over or begun[0].deadline <= now):
            begun.popleft().expire()
        if begun:
            self._timer = loop.call_at(begun[0].deadline, self._look)


class _Block:
    """Once. The rules of ``asyncio.timeout`` about whose cancellation it is."""

    __slots__ = ("_before", "_expired", "_limit", "_task", "deadline", "over")

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit
        self._expired = self.over = False
        self.deadline = 0.0
        """On the loop's clock."""

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is for tasks")
        self._task: asyncio.Task[object] | None = task
        self._before = task.cancelling()
        self._limit.begin(self)

    def expire(self) -> None:
        if not self.over and self._task is not None:
            self._expired = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        task, self._task = self._task, None
        self.over = True
        if self._expired and task is not None and task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error
