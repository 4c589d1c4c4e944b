"""The follower takes in what it can read, says what it cannot, and goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
import pytest

from ingress.backfill.record import Backfills
from ingress.status import follower as follower_module
from ingress.status.follower import Follower
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.stored_event import written_reference
from shared.backfill.events import PROGRESS, BackfillPlan, BackfillProgress, progress_event
from shared.broker.api import EventStream
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.transport import unavailable
from shared.broker.wire import encode_events
from shared.events import TYPE_PREFIX, ConversionEvent, EventType, conversion_event
from shared.messages import ConversionRequest, DriverChoice, Failure
from shared.oci.reference import parse_reference
from shared.telemetry.metrics import Metrics
from tests.waiting import until


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
async def following(
    server: MemoryServer, backfills: Backfills | None = None, metrics: Metrics | None = None
) -> AsyncIterator[History]:
    history, metrics = History(), metrics or Metrics(process_metrics=False)
    async with open_memory(server) as transport:
        known = Backfills() if backfills is None else backfills
        follower = Follower(transport.events, history, known, Live(), metrics, longest=60)
        task = asyncio.create_task(follower.run())
        try:
            yield history
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until_known(history: History, number: int) -> None:
    await until(lambda: history.get(f"{number:032x}") is not None)


UNREADABLE = {
    "no JSON": b"\xff{",
    "half a message": next(encode_events([event("requested", 7)]))[:-20],
    "nested without end": b"[" * 100_000,
    "no event": b'{"type": 7}',
    "a list of something else": b"[1]",
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
    assert "history: 1 passed over" in warning.getMessage()


def written(number: int = 7, **changes: Any) -> bytes:
    """An event as another version could write it."""
    return orjson.dumps({**orjson.loads(next(encode_events([event("failed", number)]))), **changes})


def passed_over(metrics: Metrics) -> dict[str, int]:
    """By reason, where there are any."""
    found = {
        reason: metrics.registry.get_sample_value("ics_events_passed_over_total", {"reason": reason}) or 0
        for reason in ("unreadable", "unknown_type")
    }
    return {reason: int(count) for reason, count in found.items() if count}


ODD = {
    "a later CloudEvents": (written(specversion="2.0"), "unreadable"),
    "no time zone": (written(time="2026-01-01T00:00:00"), "unreadable"),
    "no subject": (written(subject=None), "unreadable"),
    "no object": (b"7", "unreadable"),
    "another failure": (written(data={"failure": {"code": "x", "kind": "eventual", "message": ""}}), "unreadable"),
    "a filter of a later version": (written(type=f"{TYPE_PREFIX}cancelling", data={"where": {"colour": "blue"}}), "unreadable"),
    "another backfill": (written(type=PROGRESS, data={"progress": {"plan": 7}}), "unreadable"),
    "a backfill of an unknown request": (written(type=PROGRESS, data={"request": {
        "id": "1", "source": "a b", "target": "c", "driver": {"type": "x"}, "requested_at": "2026-01-01T00:00:00Z"}}),
        "unreadable"),
    "a type of a later version": (written(type=f"{TYPE_PREFIX}paused"), "unknown_type"),
    "another kind of event": (written(type="io.goharbor.ics.cleaning.started"), "unknown_type"),
}  # fmt: skip


@pytest.mark.parametrize(("odd", "reason"), ODD.values(), ids=ODD.keys())
async def test_only_what_cannot_be_read_is_left_out_of_a_message(odd: bytes, reason: str) -> None:
    (first,), (last,) = encode_events([event("requested", 1)]), encode_events([event("requested", 2)])
    server, metrics = MemoryServer(), Metrics(process_metrics=False)
    server.events += [b"[" + b",".join((first, odd, last)) + b"]", *encode_events([event("requested", 3)])]
    async with following(server, metrics=metrics) as history:
        await until_known(history, 3)
    assert [each.id for each in history.newest_first()] == [f"{number:032x}" for number in (3, 2, 1)]
    assert passed_over(metrics) == {reason: 1}


class Interrupted:
    """A stream that is lost after its first event, and then has news."""

    def __init__(self, first: ConversionEvent, news: ConversionEvent) -> None:
        self.told = [first, news]

    async def bodies(self, **_: object) -> AsyncGenerator[bytes]:
        for body in encode_events([self.told.pop(0)]):
            yield body
        if self.told:
            raise unavailable("it is away")
        await asyncio.sleep(3600)


@pytest.mark.parametrize(("first", "news"), [(-86400, 10), (10, 3600)], ids=["ahead", "behind"])
async def test_a_wrong_clock_hides_nothing_once_the_stream_was_lost(first: float, news: float) -> None:
    stream, history = Interrupted(event("requested", 1, age=first), event("requested", 2, age=news)), History()
    metrics = Metrics(process_metrics=False)
    follower = Follower(cast("EventStream", stream), history, Backfills(), Live(), metrics, longest=60)
    task = asyncio.create_task(follower.run())
    try:
        await until_known(history, 2)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_an_event_tells_beyond_this_version_is_ignored() -> None:
    server, metrics = MemoryServer(), Metrics(process_metrics=False)
    (body,) = encode_events([event("requested", 1)])
    told = orjson.loads(body)
    told["data"]["request"]["driver"]["revision"] = told["data"]["mood"] = told["severity"] = 7
    server.events += [orjson.dumps(told)]
    async with following(server, metrics=metrics) as history:
        await until_known(history, 1)
    assert not passed_over(metrics)


async def test_a_number_of_a_registry_that_fits_no_machine_word_is_kept() -> None:
    server, metrics = MemoryServer(), Metrics(process_metrics=False)
    failed = event("failed", 1)
    failure = Failure(code="too_large", kind="permanent", message="", details={"size": 10**30, "limit": 7})
    data = failed.data.model_copy(update={"failure": failure})
    server.events += encode_events([failed.model_copy(update={"data": data}), event("requested", 2)])
    async with following(server, metrics=metrics) as history:
        await until_known(history, 2)
    conversion = history.get(f"{1:032x}")
    assert conversion is not None
    assert conversion.attempts[0].details == {"size": 1e30, "limit": 7}
    assert not passed_over(metrics)


async def test_many_events_of_a_later_version_are_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    server, metrics = MemoryServer(), Metrics(process_metrics=False)
    odd = written(type=f"{TYPE_PREFIX}paused")
    server.events += [b"[" + b",".join([odd] * 50) + b"]", b"[1, 2]", *encode_events([event("requested", 1)])]
    with caplog.at_level(logging.WARNING):
        async with following(server, metrics=metrics) as history:
            await until_known(history, 1)
    assert passed_over(metrics) == {"unknown_type": 50, "unreadable": 2}
    assert [record.getMessage().partition(", the newest: ")[2] for record in caplog.records] == [
        "type 'io.goharbor.ics.conversion.paused', which this version does not know",
        "body: Input should be a valid dictionary",
    ]


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
        await until(lambda: history.counts["lost"] > 0)
    assert +history.counts == {"lost": 1, "converting": 1}


@pytest.mark.parametrize("text", [
    "h.example.com/library/redis:7@sha256:" + "a" * 64, "h:5000/a/b/c:v1", "[::1]:5000/a@sha256:" + "b" * 64,
    "docker.io/library/ubuntu:latest",
])  # fmt: skip
def test_a_written_reference_falls_into_its_parts(text: str) -> None:
    whole = parse_reference(text)
    expected = (f"{whole.registry}/{whole.repository}", whole.tag or "", str(whole.digest or ""))
    assert written_reference(text) == expected
