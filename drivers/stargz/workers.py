"""The threads and the memory that all layers of a process share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from drivers.limits import DRIVER_MEMORY

_Returned = TypeVar("_Returned")


class Workers:
    """The process's threads for all layers, and the bytes that may be under way between them.

    Args:
        threads: of compression; as many as there are cores by default.
        memory: bytes of batches and of the members made of them.

    Attributes:
        threads: as given.

    Compression has as many threads as there are cores; cutting and assembling, which Python's lock makes one at a time
    anyway, have their own, so that a queue of compressions does not hold them up.
    """

    def __init__(self, *, threads: int | None = None, memory: int = DRIVER_MEMORY) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self._compression = ThreadPoolExecutor(self.threads, thread_name_prefix="compress")
        self._steps = ThreadPoolExecutor(self.threads + 1, thread_name_prefix="layer")
        self._free = memory
        self._memory = memory
        self._waiting: list[asyncio.Future[None]] = []

    async def step(self, function: Callable[[], _Returned]) -> _Returned:
        """Run a short piece of a layer's own, ordered work."""
        return await asyncio.get_running_loop().run_in_executor(self._steps, function)

    def compress(self, function: Callable[[], _Returned]) -> asyncio.Future[_Returned]:
        """Queue what makes a batch's members."""
        return asyncio.get_running_loop().run_in_executor(self._compression, function)

    async def reserve(self, size: int) -> None:
        """Wait until ``size`` bytes may be under way; more than there are at all counts as all.

        Whoever holds bytes gives them back without reserving more, so layers that wait for each other cannot lock up.
        """
        size = min(size, self._memory)
        while self._free < size:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()
                raise
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        self._free -= size

    def release(self, size: int) -> None:
        """Give back what :meth:`reserve` gave."""
        self._free += min(size, self._memory)
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
