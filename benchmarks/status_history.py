"""A week of conversion events, and what a starting ingress replica makes of them: memory and rebuild time of its read model."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import usage
from ingress.backfill.record import Backfills
from ingress.status.follower import Follower
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.query import search
from shared.broker.event_stream import EventReading
from shared.events import ConversionEvent, Stage, conversion_event
from shared.messages import ConversionRequest, DriverChoice, Failure
from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
from shared.request_filter import RequestFilter
from shared.telemetry.metrics import Metrics

LAYERS = 6


def events(count: int) -> Iterator[ConversionEvent]:
    """Requested, started, and an end with 21 stages; one in fifty fails. No progress: nothing is kept of it."""
    now = datetime.now(UTC)
    for number in range(count):
        source = Digest.of(f"source {number}".encode())
        request = ConversionRequest(
            id=Digest.of(f"request {number}".encode()).hex[:32],
            source=parse_reference(f"harbor.example.com/team{number % 40}/service{number % 400}:v1.{number}@{source}"),
            target=parse_reference(f"harbor.example.com/team{number % 40}/service{number % 400}:v1.{number}_esgz"),
            driver=DriverChoice(type="estargz", config={"estargz_compression_level": 6}),
            requested_at=now - timedelta(days=6) + timedelta(seconds=number * 5),
            operator="robot$ci",
            event_id=Digest.of(f"event {number}".encode()).hex[:32],
        )
        trace = Digest.of(f"trace {number}".encode()).hex[:32]
        stages = [Stage(name="resolve", start_seconds=0, duration_seconds=0.08)]
        for layer in range(LAYERS):
            subject = str(Digest.of(f"layer {number % 4000} {layer}".encode()))
            stages += [
                Stage(
                    name=n,
                    subject=subject,
                    start_seconds=layer * 0.731,
                    duration_seconds=0.913,
                    bytes=9_312_345 + layer,
                )
                for n in ("pull", "convert", "push")
            ]
        stages += [Stage(name=n, start_seconds=7.5, duration_seconds=0.11, bytes=3120) for n in ("manifest", "tag")]
        consumer = f"convert-{number % 8}/1"
        told = [
            conversion_event("requested", request, trace_id=trace),
            conversion_event("started", request, consumer=consumer, trace_id=trace, queue_seconds=0.4),
        ]
        if number % 50 == 0:
            failure = Failure(code="denied", kind="permanent", message="put_manifest: 403 DENIED: no push permission")
            told.append(
                conversion_event(
                    "failed",
                    request,
                    consumer=consumer,
                    trace_id=trace,
                    failure=failure,
                    duration_seconds=2.0,
                    dead_letter_id=trace,
                )
            )
        else:
            told.append(
                conversion_event(
                    "succeeded", request, consumer=consumer, trace_id=trace, duration_seconds=7.7, stages=tuple(stages),
                    target_digest=str(Digest.of(f"target {number}".encode())), source_size=195_000_000, target_size=187_000_000,
                    layers_total=LAYERS, layers_reused=2,
                )
            )  # fmt: skip
        for position, event in enumerate(told):
            yield event.model_copy(update={"time": request.requested_at + timedelta(seconds=position * 4)})


class RecordedStream(EventReading):
    """An ``EventStream`` over a file of JSON lines that never goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def publish(self, *events: ConversionEvent) -> None:
        raise NotImplementedError("a recording is only read")

    async def bodies(self, *, since: datetime | None = None, follow: bool = True) -> AsyncGenerator[bytes]:
        with self._path.open("rb") as lines:
            for line in lines:
                yield line
        if since is None and follow:
            await asyncio.Event().wait()


def history(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of ``conversions``: seconds and CPU seconds to rebuild, bytes of memory, seconds of the longest hold of the loop and of a
    search of all.
    """
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        for event in events(arguments["conversions"]):
            file.write(event.model_dump_json().encode() + b"\n")
        file.flush()
        return uvloop.run(_rebuilt(Path(file.name), arguments["conversions"]))


async def _rebuilt(path: Path, count: int) -> dict[str, Any]:
    kept = History(capacity=count)
    follower = Follower(RecordedStream(path), kept, Backfills(), Live(), Metrics(), longest=3600)
    gc.collect()
    before, cpu = usage.resident_bytes(os.getpid()), time.process_time()
    start, held, last = time.perf_counter(), 0.0, time.perf_counter()
    task = asyncio.create_task(follower.run())
    while kept.counts["succeeded"] + kept.counts["failed"] < count:
        await asyncio.sleep(0)
        held, last = max(held, time.perf_counter() - last), time.perf_counter()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    gc.collect()
    memory = usage.resident_bytes(os.getpid()) - before
    start = time.perf_counter()
    await search(kept, RequestFilter(text="nothing has this in its name"), limit=50)
    searched = time.perf_counter() - start
    task.cancel()
    return {
        "conversions": count,
        "event_bytes": path.stat().st_size,
        "wall": wall,
        "cpu": cpu,
        "resident_bytes": memory,
        "longest_hold": held,
        "search": searched,
    }
