"""Memory and rebuild time of the ingress's read model.

``python -m benchmarks.status_history [CONVERSIONS]`` writes a week of events to a temporary file, then reads it back as a starting
replica does: parse, apply, give way to other requests. Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ingress.status.follower import Follower
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.query import ConversionFilter, search
from shared.events import ConversionEvent, Stage, conversion_event
from shared.messages import ConversionRequest, DriverChoice, Failure
from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
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


class RecordedStream:
    """An ``EventStream`` over a file of JSON lines that never goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def publish(self, event: ConversionEvent) -> None:
        raise NotImplementedError("a recording is only read")

    async def read(self, *, since: datetime | None = None, follow: bool = True) -> AsyncIterator[ConversionEvent]:
        with self._path.open("rb") as lines:
            for line in lines:
                yield ConversionEvent.model_validate_json(line)
        if since is None and follow:
            await asyncio.Event().wait()


async def measure(path: Path, count: int) -> dict[str, float]:
    history = History(capacity=count)
    follower = Follower(RecordedStream(path), history, Live(), Metrics())
    gc.collect()
    before, start, held, last = resident(), time.perf_counter(), 0.0, time.perf_counter()
    task = asyncio.create_task(follower.run())
    while history.counts["succeeded"] + history.counts["failed"] < count:
        await asyncio.sleep(0)
        held, last = max(held, time.perf_counter() - last), time.perf_counter()
    seconds = time.perf_counter() - start
    gc.collect()
    memory = resident() - before
    start = time.perf_counter()
    await search(history, ConversionFilter(text="nothing has this in its name"), limit=50)
    searched = time.perf_counter() - start
    task.cancel()
    return {
        "conversions": count,
        "event_megabytes": round(path.stat().st_size / 1e6, 1),
        "rebuild_seconds": round(seconds, 1),
        "resident_mebibytes": round(memory / 2**20, 1),
        "longest_hold_of_the_loop_milliseconds": round(held * 1000, 1),
        "search_without_match_milliseconds": round(searched * 1000, 1),
    }


def resident() -> int:
    """Bytes of this process in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        for event in events(count):
            file.write(event.model_dump_json().encode() + b"\n")
        file.flush()
        gc.collect()
        print(json.dumps(asyncio.run(measure(Path(file.name), count))))


if __name__ == "__main__":
    main()
