"""A consumer at work on a broker, with conversions that end as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from consumer.cancellations import Cancellations
from consumer.circuit import CircuitBreaker
from consumer.conversion import Converted, Converter
from consumer.machine import Machine
from consumer.worker import work
from consumer.workshop import Workshop
from drivers.api import Progress
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.event_reporter import EventReporter
from shared.events import ConversionEvent
from shared.exhausted import Resource
from shared.messages import ConversionRequest
from shared.oci.reference import Reference
from shared.settings.load import load_settings
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from shared.telemetry.work_queue import WorkQueue
from tests.waiting import PATIENCE, until


class Given:
    """Supplies as a test says: too little of what is in ``short``, plenty of everything unless ``scarce``."""

    def __init__(self) -> None:
        self.short: set[Resource] = set()
        self.scarce = False
        self.asked = 0

    async def lacking(self, resource: Resource) -> str:
        self.asked += 1
        return "none left" if resource in self.short else ""

    async def plenty(self, resource: Resource) -> bool:
        return not self.scarce and resource not in self.short

    async def state(self, resource: Resource) -> str:
        return f"/work: 0 bytes of {resource}"


class Scripted(Converter):
    """A converter whose conversions end as a test says."""

    def __init__(self, script: Callable[[ConversionRequest], Awaitable[Any]]) -> None:
        self.script = script
        self.running = 0
        self.most = 0
        self.seen: list[str] = []

    async def convert(self, request: ConversionRequest, progress: Progress, *, again: bool = False) -> Converted:
        self.seen.append(request.id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            result = await self.script(request)
            assert isinstance(result, Converted)
            return result
        finally:
            self.running -= 1


def settings_for(**environ: str) -> Settings:
    values = {
        "ICS_BROKER__URL": "memory:",
        "ICS_RETRY": '{"maximum_attempts": 3, "initial_delay": 0.02, "maximum_delay": 0.1}',
        "ICS_TIMEOUTS": '{"conversion": 60, "drain": 0.2}',
        **environ,
    }
    return load_settings(None, environ=values, option_models={"estargz": converter_options()})


def converter_options() -> Any:
    from drivers.estargz.options import EstargzOptions

    return EstargzOptions


async def answering(_reference: Reference) -> None:
    """A registry that works."""


@asynccontextmanager
async def at_work(
    made: Converter,
    settings: Settings,
    ask: Callable[[Reference], Awaitable[None]] = answering,
    machine: Machine | None = None,
) -> AsyncIterator[tuple[Broker, asyncio.Event, asyncio.Task[None]]]:
    metrics = Metrics(10, process_metrics=False)
    async with (
        open_broker(settings) as broker,
        EventReporter(broker.events, metrics, ()).running() as reporter,
        Cancellations(broker.cancellations, settings.broker.events_max_age, metrics).following() as cancellations,
    ):
        workshop = Workshop(
            settings=settings,
            converter=made,
            circuits=CircuitBreaker(metrics, pause=0.05),
            machine=machine or Machine(Given(), metrics),
            cancellations=cancellations,
            ask=ask,
            reporter=reporter,
            metrics=metrics,
            tracing=Tracing.from_environment("test"),
            queue=WorkQueue.of(settings),
            extend_interval=broker.extend_interval,
        )
        stop = asyncio.Event()
        task = asyncio.create_task(work(broker, workshop, stop))
        try:
            yield broker, stop, task
        finally:
            stop.set()
            await asyncio.wait_for(task, PATIENCE)


async def events_of(broker: Broker, wanted: int, *kinds: str) -> list[Any]:
    found = []
    async with asyncio.timeout(PATIENCE):
        async for event in broker.events.read():
            if event.kind in kinds:
                found.append(event)
                if len(found) == wanted:
                    return found
    raise AssertionError


def in_flight_at_events(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """By kind of event: how many deliveries were not settled when the last one of it was published."""
    found: dict[str, int | None] = {}
    publish = broker.events.publish

    async def published(*events: ConversionEvent) -> None:
        stats = await broker.stats()
        found.update((event.kind, stats.in_flight) for event in events)
        await publish(*events)

    monkeypatch.setattr(broker.events, "publish", published)
    return found


async def idle(broker: Broker) -> None:
    """Wait until nothing waits and nothing is unsettled."""

    async def so() -> bool:
        stats = await broker.stats()
        return not stats.ready and not stats.in_flight and not stats.retrying

    await until(so)
