"""What being watched costs: conversions with tracing off and at 100 %, and the ingress's read model of 100,000 conversions."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench, child, interleaved
from benchmarks.charts import Chart
from benchmarks.consuming import consumer
from benchmarks.images import push, registry
from benchmarks.inputs import own_layers
from benchmarks.markdown import goal, megabytes, seconds, table
from tests.servers.otlp import OtlpReceiver, otlp_receiver
from tests.servers.registry import RegistryServer

IMAGES = 100
AT_ONCE = 5
CONVERSIONS = 100_000
OVERHEAD = 1.05


def measure_tracing(bench: Bench) -> dict[str, Any]:
    own = own_layers(bench, 6 if bench.quick else IMAGES)
    with (
        bench.folder("tracing") as folder,
        registry(folder / "source") as source,
        otlp_receiver() as receiver,
    ):
        for number, each in enumerate(own):
            push([each], f"{source.host}/library/app-{number}:v1", folder)
        bench.say(f"{len(own)} small images with tracing off and on, {bench.rounds} rounds")
        runs = interleaved(
            bench,
            {
                "off": lambda: _traced(bench, source, len(own), None),
                "on": lambda: _traced(bench, source, len(own), receiver),
            },
        )
    return {"images": len(own), **runs}


def _traced(bench: Bench, source: RegistryServer, count: int, receiver: OtlpReceiver | None) -> dict[str, Any]:
    before = len(receiver.everything()) if receiver else 0
    with (
        bench.folder("tracing/run") as folder,
        registry(folder / "target") as target,
        consumer(
            folder,
            [source.host, target.host],
            concurrency=AT_ONCE,
            environment=receiver.environment if receiver else None,
        ) as running,
    ):
        found = running.convert(
            [
                (f"{source.host}/library/app-{number}:v1", f"{target.host}/library/app-{number}:v1_esgz")
                for number in range(count)
            ]
        )
    return {**found, "spans": len(receiver.everything()) - before if receiver else 0}


def render_tracing(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    off, on, count = data["off"], data["on"], data["images"]
    rows = [
        (name, seconds(run["wall"]), f"{count / run['wall']:.1f}", f"{run['wall'] / off['wall']:.3f}", seconds(run["cpu"]),
         f"{run['spans']:,.0f}", f"{run['wall_spread']:.0%}")
        for name, run in (("off", off), ("on, 100 %", on))
    ]  # fmt: skip
    head = ("tracing", "seconds", "conversions/s", "÷ off", "consumer CPU, s", "spans received", "spread")
    ratio = on["wall"] / off["wall"]
    how = (
        f"{count} images of one layer of about 3 MB through one consumer, {AT_ONCE} at a time: small, so that spans weigh as much"
        " as they can. OTLP over gRPC, every trace sampled; the receiver shares the machine's cores."
    )
    met = goal("tracing costs no more than 5 %", ratio <= OVERHEAD, f"{ratio:.3f} × the time")
    return f"{how}\n\n{table(head, rows)}\n\n{met}", []


def measure_history(bench: Bench) -> dict[str, Any]:
    count = 2_000 if bench.quick else CONVERSIONS
    bench.say(f"a read model of {count:,} conversions, {bench.rounds} rounds")
    return interleaved(bench, {"history": lambda: child("history", {"conversions": count})})["history"]


def render_history(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    head = (
        "conversions", "events, MB", "rebuilt in, s", "read model, MB", "longest hold of the loop, ms",
        "search of all without a match, ms",
    )  # fmt: skip
    row = (
        f"{data['conversions']:,.0f}", megabytes(data["event_bytes"]), seconds(data["wall"]), megabytes(data["resident_bytes"]),
        f"{data['longest_hold'] * 1000:.0f}", f"{data['search'] * 1000:.0f}",
    )  # fmt: skip
    how = (
        "A week of events (requested, started, an end with 21 stages; one in fifty fails), read back as a starting ingress replica"
        " does: parsed, applied, giving way to requests."
    )
    return f"{how}\n\n{table(head, [row])}", []
