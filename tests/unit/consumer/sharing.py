"""Consumers that share a base layer, a registry and a broker, and are held where a test wants them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from consumer.progress import ConversionProgress
from drivers.api import StageRecord
from shared.oci.digest import Digest
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.waiting import PATIENCE


async def at_once() -> None:
    """Hold nobody."""


@dataclass
class Base:
    """The shared layer, and who does what with it."""

    digest: Digest
    before: Callable[[], Awaitable[None]] = at_once
    """Awaited by every conversion of it, before it begins."""
    conversions: int = 0
    waiting: int = 0
    waits: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(holds)

    async def tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def progress(self) -> ConversionProgress:
        """Of one conversion."""
        return _Watched(Tracing.from_environment("test", enabled=False), Metrics(10, process_metrics=False), base=self)


@dataclass
class _Watched(ConversionProgress):
    base: Base = field(kw_only=True)

    @asynccontextmanager
    async def stage(self, name: str, subject: str = "") -> AsyncIterator[StageRecord]:
        base = self.base
        ours = subject == base.digest
        async with super().stage(name, subject) as record:
            if ours and name == "convert":
                base.conversions += 1
                await base.tell()
                await base.before()
            if ours and name == "wait":
                base.waits += 1
                base.waiting += 1
                await base.tell()
            try:
                yield record
            finally:
                base.waiting -= ours and name == "wait"
