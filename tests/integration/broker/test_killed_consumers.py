"""What the status says of conversions whose consumer was killed: on real brokers, by a consumer that is a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ingress.backfill.record import Backfills
from ingress.status import follower as follower_module
from ingress.status.conversion import Conversion, Status
from ingress.status.follower import Follower
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.monitor import BrokerMonitor
from shared.broker.api import Broker
from shared.events import ConversionEvent
from shared.telemetry.metrics import Metrics
from tests.dead_letters import dead
from tests.integration.broker.conftest import DELIVERY_LIMIT, Kind
from tests.integration.broker.test_conformance import REAL, one, request
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[3]


async def killed(kind: Kind, moment: str) -> None:
    """Run ``killed_consumer.py`` until it is dead."""
    environment = {
        **os.environ,
        "ICS_BROKER__URL": kind.url,
        "ICS_BROKER__PREFIX": kind.prefix,
        "ICS_BROKER__DELIVERY_LIMIT": str(DELIVERY_LIMIT),
        "ICS_BROKER__PUBLISH_TIMEOUT": "10",
        "ICS_DRIVER": '{"type": "none"}',
    }
    program = ("-m", "tests.integration.broker.killed_consumer", moment)
    process = await asyncio.create_subprocess_exec(sys.executable, *program, env=environment, cwd=ROOT)
    try:
        assert await asyncio.wait_for(process.wait(), 100) == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()


async def ends(broker: Broker) -> list[ConversionEvent]:
    """What the history tells of how conversions ended."""
    return [event async for event in broker.events.read(follow=False) if event.kind in {"failed", "skipped"}]


@asynccontextmanager
async def watching(broker: Broker, longest: float) -> AsyncIterator[tuple[History, BrokerMonitor]]:
    """The read model of an ingress whose conversions take ``longest`` seconds at most."""
    history, metrics = History(), Metrics(process_metrics=False)
    follower = Follower(broker.events, history, Backfills(), Live(), metrics, longest=longest)
    task = asyncio.create_task(follower.run())
    try:
        yield history, BrokerMonitor(broker, history, metrics, follower.found)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(history: History, status: Status) -> Conversion:
    async with asyncio.timeout(PATIENCE):
        while (found := history.get(request().id)) is None or found.status != status:
            await asyncio.sleep(0.05)
    return found


@REAL
@pytest.mark.parametrize("outcome", ["failed", "skipped"])
async def test_an_end_is_told_before_it_is_settled(kind: Kind, outcome: str) -> None:
    async with kind.connect() as broker:
        await broker.publish(request())
        await killed(kind, outcome)
        (event,) = await ends(broker)
        assert event.kind == outcome
        assert [letter.id async for letter in broker.dead_letters.list()] == [
            event.data.dead_letter_id for _ in range(outcome == "failed")
        ]
        assert (await broker.stats()).ready == 0


@REAL
async def test_a_letter_that_nobody_told_of_is_told_of_by_the_next_consumer(kind: Kind) -> None:
    async with kind.connect() as broker:
        await broker.publish(request())
        await killed(kind, "buried")
        assert not await ends(broker)
        await killed(kind, "failed")
        (event,) = await ends(broker)
        assert [letter.id async for letter in broker.dead_letters.list()] == [event.data.dead_letter_id]


@REAL
async def test_a_conversion_that_kills_its_consumers_runs_no_more_and_ends(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_SWEEP", 0.05)
    monkeypatch.setattr(follower_module, "_GRACE", 0)
    async with kind.connect() as broker, watching(broker, longest=0.1) as (history, monitor):
        await broker.publish(request())
        await killed(kind, "converting")
        await until(history, "lost")
        for _ in range(DELIVERY_LIMIT):
            async with kind.connect() as dying:
                await one(dying)
        async with asyncio.timeout(PATIENCE), broker.deliveries(1) as deliveries:
            taking = asyncio.ensure_future(anext(deliveries))
            while not await dead(broker):
                await asyncio.sleep(0.1)
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        (letter,) = [each async for each in broker.dead_letters.list()]
        assert not await ends(broker)  # nobody was there to tell
        await monitor.look()
        ended = await until(history, "failed")
        assert (ended.code, ended.dead_letter_id) == ("delivery_limit", letter.id)
        assert (history.converting(), [each for each in history.consumers.values() if each.running]) == (0, [])
