"""The follower takes in what it can read, says what it cannot, and goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from ingress.backfill.record import Backfills
from ingress.status import follower as follower_module
from ingress.status.follower import Follower
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.stored_event import written_reference
from shared.backfill_events import BackfillPlan, BackfillProgress, progress_event
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.wire import encode_events
from shared.events import ConversionEvent, EventType, conversion_event
from shared.messages import ConversionRequest, DriverChoice
from shared.oci.reference import parse_reference
from shared.telemetry.metrics import Metrics


def event(kind: EventType, number: int, age: float = 10) -> ConversionEvent:
    request = ConversionRequest(
        id=f"{number:032x}",
        source=parse_reference("h.example.com/library/redis:7"),
        target=parse_reference("h.example.com/library/redis:7_esgz"),
        driver=DriverChoice(type="estargz"),
    )
    told = conversion_event(kind, request, consumer="a/1")
    return told.model_copy(update={"time": datetime.now(UTC) - timedelta(seconds=age)})


@asynccontextmanager
async def following(server: MemoryServer, backfills: Backfills | None = None) -> AsyncIterator[History]:
    history = History()
    async with open_memory(server) as transport:
        known = Backfills() if backfills is None else backfills
        follower = Follower(transport.events, history, known, Live(), Metrics(process_metrics=False), longest=60)
        task = asyncio.create_task(follower.run())
        try:
            yield history
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until_known(history: History, number: int) -> None:
    async with asyncio.timeout(10):
        while history.get(f"{number:032x}") is None:
            await asyncio.sleep(0.01)


UNREADABLE = {
    "no JSON": b"\xff{",
    "half a message": next(encode_events([event("requested", 7)]))[:-20],
    "nested without end": b"[" * 100_000,
    "no event": b'{"type": 7}',
    "a list of something else": b"[1, 2]",
    "a stage without a name": next(encode_events([event("succeeded", 7)])).replace(b'"stages":[]', b'"stages":[{}]'),
    "a request without a source": next(encode_events([event("requested", 7)])).replace(b'"source":"h', b'"sauce":"h'),
}  # fmt: skip


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_what_cannot_be_read_is_logged_and_stops_nothing(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = MemoryServer()
    server.events += [*encode_events([event("requested", 1)]), body, *encode_events([event("requested", 2)])]
    with caplog.at_level(logging.WARNING):
        async with following(server) as history:
            await until_known(history, 2)
    assert len(history) == 2
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "an unreadable event is skipped" in warning.getMessage()


async def test_backfills_are_told_in_the_same_stream() -> None:
    plan = BackfillPlan(registry="h.example.com")
    server, backfills = MemoryServer(), Backfills()
    server.events += encode_events([progress_event("walk", BackfillProgress(plan=plan, state="running"), "boss")])
    server.events += encode_events([event("requested", 1)])
    async with following(server, backfills) as history:
        await until_known(history, 1)
    found = backfills.get("walk")
    assert found is not None
    assert (found.plan, found.actor) == (plan, "boss")


async def test_the_follower_loses_sight_of_what_should_have_ended_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "_SWEEP", 0.01)
    server = MemoryServer()
    server.events += encode_events([event("started", 1, age=61), event("started", 2, age=10)])
    async with following(server) as history:
        await until_known(history, 2)
        async with asyncio.timeout(10):
            while history.counts["lost"] == 0:
                await asyncio.sleep(0.01)
    assert +history.counts == {"lost": 1, "converting": 1}


@pytest.mark.parametrize("text", [
    "h.example.com/library/redis:7@sha256:" + "a" * 64, "h:5000/a/b/c:v1", "[::1]:5000/a@sha256:" + "b" * 64,
    "docker.io/library/ubuntu:latest",
])  # fmt: skip
def test_a_written_reference_falls_into_its_parts(text: str) -> None:
    whole = parse_reference(text)
    expected = (f"{whole.registry}/{whole.repository}", whole.tag or "", str(whole.digest or ""))
    assert written_reference(text) == expected
