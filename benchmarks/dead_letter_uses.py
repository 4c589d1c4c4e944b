"""What is done to many dead letters, measured in a process of its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import uvloop
from opentelemetry.sdk.trace import TracerProvider

from benchmarks import usage
from shared.broker.api import Broker, DeadLetterFilter
from shared.broker.open import open_broker
from shared.dead_letter_operations import DeadLetterOperations
from shared.messages import Attempt, ConversionRequest, DeadLetter, DriverChoice, Failure
from shared.oci.digest import Digest
from shared.oci.reference import parse_reference
from shared.settings.model import BrokerSettings, Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing

AT_ONCE = 200
"""Letters that are put in without a confirm at most."""
REPLAYED = 100
TICK = 0.005
CODES = ("denied", "registry_unavailable", "corrupt_layer", "manifest_unknown")


def dead_letters_fill(arguments: dict[str, Any]) -> dict[str, Any]:
    """Put ``count`` letters into the broker at ``url``."""
    return uvloop.run(_fill(_settings(arguments), arguments["count"]))


def dead_letters_use(arguments: dict[str, Any]) -> dict[str, Any]:
    """Do ``use`` once: seconds, CPU seconds, bytes of peak memory above those before, seconds of the longest hold of the loop."""
    return uvloop.run(_use(_settings(arguments), arguments["use"], arguments["count"]))


def _settings(arguments: dict[str, Any]) -> Settings:
    return Settings(broker=BrokerSettings(url=arguments["url"], prefix=arguments["prefix"]))


async def _fill(settings: Settings, count: int) -> dict[str, Any]:
    async with open_broker(settings) as broker:
        await broker.check_health()
        for first in range(0, count, AT_ONCE):
            several = range(first, min(first + AT_ONCE, count))
            await asyncio.gather(*(broker.dead_letters.add(_letter(number)) for number in several))
    return {}


def _letter(number: int) -> DeadLetter:
    source = parse_reference(
        f"harbor.example.com/team{number % 40}/service{number % 400}:v1.{number}@{Digest.of(f'source {number}'.encode())}"
    )
    request = ConversionRequest(
        id=Digest.of(f"request {number}".encode()).hex[:32],
        source=source,
        target=source.with_tag(f"v1.{number}_esgz"),
        driver=DriverChoice(type="estargz", config={"estargz_compression_level": 6}),
        operator="robot$ci",
        event_id=Digest.of(f"event {number}".encode()).hex[:32],
    )
    code = CODES[number % len(CODES)]
    text = f"GET https://harbor.example.com/v2/team{number % 40}/service{number % 400}/manifests/v1.{number}: {code}"
    failure = Failure(code=code, kind="permanent", message=text)
    died_at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    trace = Digest.of(f"trace {number}".encode()).hex[:32]
    attempts = tuple(
        Attempt(number=n, started_at=died_at, duration_seconds=1.5, consumer="convert-0/1", failure=failure, trace_id=trace)
        for n in (1, 2, 3)
    )  # fmt: skip
    return DeadLetter(
        id=Digest.of(f"letter {number}".encode()).hex[:24],
        request=request,
        failure=failure,
        attempts=attempts,
        died_at=died_at,
        consumer="convert-0/1",
        trace_id=trace,
        traceparent=f"00-{trace}-{'b' * 16}-01",
    )


async def _use(settings: Settings, use: str, count: int) -> dict[str, Any]:
    async with open_broker(settings) as broker:
        await broker.check_health()
        operations = DeadLetterOperations(
            settings, broker, tracing=Tracing(TracerProvider()), metrics=Metrics(process_metrics=False)
        )
        before, cpu, start = usage.resident_bytes(os.getpid()), usage.cpu_seconds(), time.perf_counter()
        async with _watched() as holds:
            await _done(use, broker, operations, count)
        return {
            "wall": time.perf_counter() - start,
            "cpu": usage.cpu_seconds() - cpu,
            "growth": max(0, usage.peak_bytes() - before),
            "hold": max(holds),
        }


async def _done(use: str, broker: Broker, operations: DeadLetterOperations, count: int) -> None:
    if use == "list":
        found = await operations.find(DeadLetterFilter(tag=f"v1.{count - 1}"))
        assert len(found) == 1
    elif use == "summary":
        codes = Counter([letter.failure.code async for letter in broker.dead_letters.list()])
        assert len(codes) == len(CODES)
    else:
        letters = await operations.find(DeadLetterFilter(), limit=min(REPLAYED, count // 10))
        result = await operations.carry_out("replay", letters, actor="benchmark")
        assert result.done == len(letters)


@asynccontextmanager
async def _watched() -> AsyncIterator[list[float]]:
    """How long each turn of the loop took longer than it was asked to, in seconds."""
    holds = [0.0]

    async def watch() -> None:
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(TICK)
            holds.append(time.perf_counter() - asked - TICK)

    task = asyncio.create_task(watch())
    try:
        yield holds
    finally:
        task.cancel()
