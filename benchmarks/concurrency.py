"""Ten images that share nothing through one consumer, 1, 2, 5 and 10 of them at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.bench import Bench, interleaved
from benchmarks.charts import Chart, Line
from benchmarks.consuming import consumer
from benchmarks.images import push, registry
from benchmarks.inputs import ten_parts
from benchmarks.markdown import goal, megabytes, seconds, table
from tests.servers.registry import RegistryServer

AT_ONCE = (1, 2, 5, 10)
TOLERANCE = 0.95
"""What counts as no loss: two runs of the same differ by as much."""


def measure(bench: Bench) -> dict[str, Any]:
    parts = ten_parts(bench)
    with bench.folder("concurrency") as folder, registry(folder / "source") as source:
        for number, part in enumerate(parts):
            push([part], f"{source.host}/library/part-{number}:v1", folder)
        bench.say(f"ten images, {', '.join(map(str, AT_ONCE))} at a time, {bench.rounds} rounds")
        runs = interleaved(bench, {str(n): partial(_run, bench, source, len(parts), n) for n in AT_ONCE})
    return {
        "images": len(parts),
        "tar": sum(part.tar_size for part in parts),
        "gzip": sum(part.size for part in parts),
        "at_once": runs,
    }


def _run(bench: Bench, source: RegistryServer, count: int, at_once: int) -> dict[str, Any]:
    """Into an empty registry, by a new consumer: nothing is known."""
    with (
        bench.folder("concurrency/run") as folder,
        registry(folder / "target") as target,
        consumer(folder, [source.host, target.host], concurrency=at_once) as running,
    ):
        return running.convert(
            [
                (f"{source.host}/library/part-{number}:v1", f"{target.host}/library/part-{number}:v1_esgz")
                for number in range(count)
            ]
        )


def render(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    runs = data["at_once"]
    alone = runs["1"]["wall"]
    rows = [
        (
            n, seconds(it["wall"]), f"{data['tar'] / it['wall'] / 1e6:.1f}", f"{alone / it['wall']:.2f}", seconds(it["cpu"]),
            megabytes(it["rss"]), f"{it['wall_spread']:.0%}",
        )
        for n, it in runs.items()
    ]  # fmt: skip
    head = ("at a time", "ten images, s", "MB/s of tar", "÷ one by one", "consumer CPU, s", "peak RSS, MB", "spread")
    worst = min(alone / it["wall"] for it in runs.values())
    goals = goal("no throughput lost against one after the other", worst >= TOLERANCE, f"{worst:.2f} × at least")
    points = [(float(n), data["tar"] / it["wall"] / 1e6) for n, it in runs.items()]
    chart = Chart(
        "concurrency", "Ten images: total throughput", "conversions at a time", "MB/s of tar", [Line("eStargz", points)]
    )
    how = (
        f"{data['images']} images of one layer each, {megabytes(data['tar'])} MB of tar together ({megabytes(data['gzip'])} MB"
        " packed), from one docker-registry to another, through NATS and one `ics consumer`; from the first request to the"
        " last event."
    )
    return f"{how}\n\n{table(head, rows)}\n\n{goals}", [chart]
