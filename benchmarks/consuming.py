"""Whole conversions by the service as it runs: a broker, one ``ics consumer`` process, the events that tell of the ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import usage
from benchmarks.service import running
from shared.broker.open import open_broker
from shared.messages import ConversionRequest, DriverChoice, request_id
from shared.oci.reference import parse_reference
from shared.settings.model import BrokerSettings, Settings
from tests.servers.nats import nats
from tests.servers.ports import free_port

Job = tuple[str, str]
"""Source and target reference."""
_LIMIT = 600.0


@dataclass(frozen=True)
class Consumer:
    """A running one."""

    pid: int
    broker_url: str

    def convert(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Queue all of them at once; seconds until the last has ended, CPU seconds and peak RSS of the consumer, layers reused.

        Raises:
            RuntimeError: a conversion did not succeed.
        """
        before = usage.cpu_of(self.pid)
        found = asyncio.run(_converted(self.broker_url, jobs))
        return {**found, "cpu": usage.cpu_of(self.pid) - before, "rss": usage.peak_of(self.pid)}


@contextmanager
def consumer(
    folder: Path, hosts: Sequence[str], *, concurrency: int, environment: Mapping[str, str] | None = None
) -> Iterator[Consumer]:
    """A new broker and a new consumer that may reach the registries ``hosts`` over plain HTTP."""
    port = free_port()
    with nats(folder / "broker") as broker:
        configuration = {
            "broker": {"url": broker.url},
            "maximum_concurrency": concurrency,
            "auths": {host: {"insecure": True} for host in hosts},
            "metric": {"port": port},
            "work_dir": str(folder / "work"),
            "log": {"level": "warning"},
        }
        with running("consumer", folder, configuration, f"http://127.0.0.1:{port}/health", environment) as pid:
            yield Consumer(pid, broker.url)


async def _converted(url: str, jobs: Sequence[Job]) -> dict[str, Any]:
    requests = [_request(*job) for job in jobs]
    waiting = {request.id for request in requests}
    settings = Settings(broker=BrokerSettings.model_validate({"url": url}))
    reused = 0
    async with open_broker(settings) as broker, asyncio.timeout(_LIMIT):
        start = time.perf_counter()
        await asyncio.gather(*(broker.publish(request) for request in requests))
        async for event in broker.events.read():
            if event.subject not in waiting or event.kind not in {"succeeded", "failed", "skipped", "retrying"}:
                continue
            if event.kind != "succeeded":
                told = event.data.failure
                raise RuntimeError(f"a conversion {event.kind}: {told.message if told else event.data.reason}")
            reused += event.data.layers_reused or 0
            waiting.discard(event.subject)
            if not waiting:
                break
        return {"wall": time.perf_counter() - start, "reused": reused}


def _request(source: str, target: str) -> ConversionRequest:
    return ConversionRequest(
        id=request_id("benchmark", source, "benchmark", target),
        source=parse_reference(source),
        target=parse_reference(target),
        rule="benchmark",
        driver=DriverChoice(type="estargz"),
    )
