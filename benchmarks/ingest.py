"""Webhooks accepted a second, on RabbitMQ and NATS, against what the same client publishes to the same broker; and a burst."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import usage
from benchmarks.bench import Bench, child, interleaved
from benchmarks.charts import Chart
from benchmarks.markdown import goal, megabytes, seconds, table
from benchmarks.service import running
from benchmarks.webhook_load import HOST
from shared.broker.open import open_broker
from shared.settings.model import BrokerSettings, Settings
from tests.servers.nats import nats
from tests.servers.ports import free_port
from tests.servers.rabbitmq import rabbitmq

GOAL_SHARE = 0.6
GOAL_P99 = 3.0
CONNECTIONS = 64
IN_FLIGHT = 64
BURST_CONNECTIONS = 500
GROWTH = 64e6
"""Bytes that the ingress may have grown by after a burst: what one replica keeps of the history on top of it."""


def measure(bench: Bench) -> dict[str, Any]:
    brokers: dict[str, Callable[[Path], Any]] = {"RabbitMQ": _rabbitmq, "NATS": _nats}
    return {"brokers": {name: _on(bench, name, start) for name, start in brokers.items()}}


@contextmanager
def _rabbitmq(folder: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    with rabbitmq(folder) as server:
        process = server.process
        assert process is not None
        yield server.url, lambda: usage.cpu_of_group(process.pid)


@contextmanager
def _nats(folder: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    with nats(folder) as server:
        process = server.process
        assert process is not None
        yield server.url, lambda: usage.cpu_of(process.pid)


def _on(bench: Bench, name: str, start: Callable[[Path], Any]) -> dict[str, Any]:
    count, burst = (200, 500) if bench.quick else (6000, 10_000)
    numbers = iter(range(0, 1 << 40, max(count, burst)))
    with ExitStack() as stack:
        folder = stack.enter_context(bench.folder("ingest"))
        url, broker_cpu = stack.enter_context(start(folder / "broker"))
        replicas: list[_Replica] = []

        def webhooks(number: int, connections: int) -> dict[str, Any]:
            before = _cpu(replicas), broker_cpu()
            urls = [replica.url for replica in replicas]
            found = child("load", {"urls": urls, "first": next(numbers), "count": number, "connections": connections})
            return {**found, "ingress_cpu": _cpu(replicas) - before[0], "broker_cpu": broker_cpu() - before[1]}

        def published() -> dict[str, Any]:
            return child("raw", {"url": url, "first": next(numbers), "count": count, "in_flight": IN_FLIGHT})

        def compared() -> dict[str, Any]:
            replicas.append(_start_replica(stack, folder / f"replica{len(replicas)}", url))
            bench.say(f"ingest on {name}, {len(replicas)} replicas, {bench.rounds} rounds")
            webhooks(count // 4, CONNECTIONS)
            return interleaved(bench, {"raw": published, "ingress": lambda: webhooks(count, CONNECTIONS)})

        one = compared()
        alone = interleaved(bench, {"alone": lambda: webhooks(count // 10, 1)})
        bench.say(f"a burst of {burst:,} webhooks on {name}")
        pid = replicas[0].pid
        queued, before = _queued(url), usage.resident_bytes(pid)
        flood = webhooks(burst, BURST_CONNECTIONS)
        flood |= {
            "count": burst, "queued": _queued(url) - queued, "rss_before": before, "rss_after": usage.resident_bytes(pid),
            "rss_peak": usage.peak_of(pid),
        }  # fmt: skip
        two = compared()
    return {"count": count, "replicas": {"1": one, "2": two}, **alone, "burst": flood}


@dataclass(frozen=True)
class _Replica:
    url: str
    pid: int


def _start_replica(stack: ExitStack, folder: Path, broker: str) -> _Replica:
    port = free_port()
    configuration = {
        "hostname": "127.0.0.1",
        "http": {"port": port},
        "auths": {HOST: {}},
        "broker": {"url": broker},
        "rules": [{"name": "default", "target_suffix": "esgz"}],
    }
    pid = stack.enter_context(running("ingress", folder, configuration, f"http://127.0.0.1:{port}/health"))
    return _Replica(f"http://127.0.0.1:{port}/conversion", pid)


def _cpu(replicas: Sequence[_Replica]) -> float:
    return sum(usage.cpu_of(replica.pid) for replica in replicas)


def _queued(url: str) -> int:
    """Messages that wait in the work queue, by the broker's own account."""

    async def ready() -> int:
        settings = Settings(broker=BrokerSettings.model_validate({"url": url}))
        async with open_broker(settings) as broker:
            return (await broker.stats()).ready or 0

    return asyncio.run(ready())


def render(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    rows, bursts, goals = [], [], []
    for name, it in data["brokers"].items():
        alone, burst = it["alone"], it["burst"]
        for replicas, compared in it["replicas"].items():
            raw, ingress = compared["raw"], compared["ingress"]
            share = ingress["rate"] / raw["rate"]
            rows.append(
                (
                    name, replicas, f"{raw['rate']:,.0f}", f"{ingress['rate']:,.0f}", f"{share:.0%}", _ms(ingress["p50"]),
                    _ms(ingress["p99"]), *((_ms(alone["p50"]), _ms(alone["p99"])) if replicas == "1" else ("", "")),
                    f"{raw['cpu_each'] * 1000:.2f}", _each(ingress, "ingress_cpu"), _each(ingress, "broker_cpu"),
                    _each(ingress, "client_cpu"),
                )
            )  # fmt: skip
            of = f"{name}, {replicas} replica{'s' if replicas != '1' else ''}"
            goals.append(
                goal(f"{of}: ≥ {GOAL_SHARE:.0%} of the confirmed publish rate", share >= GOAL_SHARE, f"{share:.0%}")
            )
        bursts.append(
            (
                name, f"{burst['count']:,}", f"{burst['accepted']:,}", f"{burst['queued']:,}", seconds(burst["wall"]),
                _ms(burst["p50"]), _ms(burst["p99"]), _ms(burst["slowest"]), megabytes(burst["rss_before"]),
                megabytes(burst["rss_peak"]), megabytes(burst["rss_after"]),
            )
        )  # fmt: skip
        grown = burst["rss_after"] - burst["rss_before"]
        goals += [
            goal(
                f"{name}: p99 under Harbor's 3 s, also in the burst", burst["p99"] < GOAL_P99, f"{burst['p99']:.2f} s"
            ),
            goal(
                f"{name}: every webhook of the burst accepted and in the queue",
                burst["accepted"] == burst["queued"] == burst["count"],
                f"{burst['accepted']:,} accepted, {burst['queued']:,} queued",
            ),
            goal(f"{name}: flat memory over the burst", grown < GROWTH, f"{megabytes(grown)} MB more after it"),
        ]
    head = (
        "broker", "replicas", "raw publishes/s", "webhooks/s", "share", "p50, ms", "p99, ms", "alone p50, ms", "alone p99, ms",
        "raw client CPU, ms each", "ingress CPU, ms each", "broker CPU, ms each", "load client CPU, ms each",
    )  # fmt: skip
    burst_head = (
        "broker", "burst of", "accepted", "in the queue", "seconds", "p50, ms", "p99, ms", "slowest, ms",
        "ingress RSS before, MB", "peak, MB", "after, MB",
    )  # fmt: skip
    how = (
        f"{CONNECTIONS} connections, each sending when its predecessor was answered; raw: {IN_FLIGHT} unconfirmed publishes of"
        " the same messages on one connection. *alone*: one connection. Client, ingress and broker share the machine's cores."
        " Of two replicas each takes half of the connections, and each follows all events."
    )
    return f"{how}\n\n{table(head, rows)}\n\n{table(burst_head, bursts)}\n\n" + "\n".join(goals), []


def _each(run: dict[str, Any], key: str) -> str:
    return f"{run[key] / run['accepted'] * 1000:.2f}"


def _ms(value: float) -> str:
    return f"{value * 1000:.1f}"
