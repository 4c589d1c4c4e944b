"""The faults: which strike, when, and how processes come back after them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tests.faults.account import Report
from tests.faults.fleet import Fleet
from tests.faults.proxy import PROXY_FAULTS, Fault
from tests.faults.scale import FAULT_PAUSE
from tests.servers.processes import Service


class Striker:
    """Injects what ``report.scale`` asks for, and counts what really struck.

    Args:
        move: pushes another image under a tag, for the faults that do so.
    """

    def __init__(
        self, fleet: Fleet, report: Report, rng: random.Random, move: Callable[[str], Awaitable[None]]
    ) -> None:
        self._fleet = fleet
        self._report = report
        self._rng = rng
        self._returning: set[asyncio.Task[None]] = set()
        for proxy, consumer in zip(fleet.proxies, fleet.consumers, strict=True):
            proxy.on_kill = functools.partial(self._kill, consumer)
            proxy.on_move = move

    async def strike_all(self) -> None:
        """``faults`` of them, spread over the time that posting takes and, if that is over sooner, after it."""
        whole = (
            [self._kill_a_consumer] * 3
            + [self._kill_an_ingress] * 3
            + [self._stop_a_consumer] * 2
            + [self._restart_the_registry] * 2
            + [self._restart_the_broker]
            + [self._kill_the_broker]
        )
        self._rng.shuffle(whole)
        small = list(PROXY_FAULTS)
        self._rng.shuffle(small)
        every = itertools.cycle(small)  # each kind in each stage, before any comes again
        for number in range(self._report.scale.faults):
            await asyncio.sleep(self._rng.uniform(*FAULT_PAUSE))
            if number % 4:
                kind, stage = next(every)
                times = self._rng.randrange(5, 30) if kind.startswith("status") else 1
                self._rng.choice(self._fleet.proxies).arm(Fault(kind, stage, times))
            else:
                await whole[(number // 4) % len(whole)]()

    async def calm(self) -> None:
        """No more faults; whatever they took down is back and healthy."""
        for proxy in self._fleet.proxies:
            proxy.calm()
            self._report.faults.update(proxy.struck)
        await self.returned()
        await self._fleet.ready()

    async def returned(self) -> None:
        """Wait for the processes that are on their way back."""
        await asyncio.gather(*self._returning, return_exceptions=True)

    def _later(self, coming_back: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coming_back)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _stop_a_consumer(self) -> None:
        """SIGTERM, as a new release does."""
        service = self._rng.choice(self._fleet.consumers)
        self._report.faults["SIGTERM consumer"] += 1

        async def anew() -> None:
            await service.stop()
            await service.restart()

        self._later(anew())

    def _kill(self, service: Service) -> None:
        self._report.faults[f"SIGKILL {service.role}"] += 1
        service.kill()
        self._later(service.restart())

    async def _kill_a_consumer(self) -> None:
        self._kill(self._rng.choice(self._fleet.consumers))

    async def _kill_an_ingress(self) -> None:
        self._kill(self._rng.choice(self._fleet.ingresses))

    async def _restart_the_registry(self) -> None:
        self._report.faults["registry restart"] += 1
        registry = self._fleet.registry
        await asyncio.to_thread(registry.stop)
        self._report.torn_links += await asyncio.to_thread(registry.remove_torn_links)
        await asyncio.sleep(self._rng.uniform(0, 2))
        await asyncio.to_thread(registry.start)

    async def _restart_the_broker(self) -> None:
        self._report.faults["broker restart"] += 1
        await asyncio.to_thread(self._fleet.server.kill, signal.SIGTERM)
        await asyncio.to_thread(self._fleet.server.start)

    async def _kill_the_broker(self) -> None:
        self._report.faults["SIGKILL broker"] += 1
        await asyncio.to_thread(self._fleet.server.kill, signal.SIGKILL)
        await asyncio.to_thread(self._fleet.server.start)
