"""eStargz and zstd:chunked, layer by layer, beside the Go reference builder at its default levels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.bench import Bench, child, interleaved
from benchmarks.charts import Chart
from benchmarks.inputs import facts, layer
from benchmarks.markdown import goal, megabytes, seconds, table
from tests.integration.estargz.oracle import ask

GOAL_SPEED = 10.0
GOAL_SPEED_ZSTD = 3.0
"""Against the Go builder's zstd, which is faster than its gzip."""
DISTRIBUTIONS = ("base", "python", "node")
EXTREMES = ("small", "huge")
GOAL_LAYERS = ("base", "python", "node", "small")
GOAL_MEMORY = 300e6


def measure(bench: Bench) -> dict[str, Any]:
    return _measured(bench, DISTRIBUTIONS, "estargz", ("build", "9"))


def measure_extremes(bench: Bench) -> dict[str, Any]:
    return _measured(bench, EXTREMES, "estargz", ("build", "9"))


def measure_zstdchunked(bench: Bench) -> dict[str, Any]:
    return _measured(bench, (*DISTRIBUTIONS, "small"), "zstdchunked", ("build-zstd", "3"))


def _measured(bench: Bench, layers: Sequence[str], driver: str, reference: tuple[str, str]) -> dict[str, Any]:
    command, level = reference
    found: dict[str, Any] = {"layers": {}}
    with bench.folder("layers") as folder:
        out = folder / "out"
        for name in layers:
            made = layer(bench, name)
            bench.say(f"layer {name}, both builders, {bench.rounds} rounds")
            runs = interleaved(
                bench,
                {
                    "go": partial(ask, command, made.packed, out, level, "0"),
                    "ics": partial(child, driver, {"layer": str(made.packed), "out": str(out)}),
                },
            )
            found["layers"][name] = {**facts(made), **runs}
    return found


def render(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    return _rendered(data, "Go, level 9", GOAL_SPEED), []


def render_zstdchunked(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    return _rendered(data, "Go, level 3", GOAL_SPEED_ZSTD), []


def _rendered(data: dict[str, Any], reference: str, speed: float) -> str:
    rows, speed_ups, sizes, judged = [], [], [], []
    for name, it in data["layers"].items():
        go, ics = it["go"], it["ics"]
        if name in GOAL_LAYERS:
            judged.append(name)
            speed_ups.append(go["wall"] / ics["wall"])
            sizes.append(ics["size"] / go["size"])
        for builder, run in ((reference, go), ("ICS", ics)):
            rows.append(
                (
                    name, megabytes(it["tar"]), f"{it['entries']:,}", builder, f"{it['tar'] / run['wall'] / 1e6:.1f}",
                    f"{go['wall'] / run['wall']:.1f}", f"{run['size']:,.0f}", f"{run['size'] / go['size']:.4f}",
                    seconds(run["cpu"]), megabytes(run["rss"]), f"{run['wall_spread']:.0%}",
                )
            )  # fmt: skip
    head = (
        "layer", "tar, MB", "entries", "builder", "MB/s of tar", "speed-up", "output, bytes", "size ratio", "CPU, s",
        "peak RSS, MB", "spread",
    )  # fmt: skip
    peak = max(it["ics"]["rss"] for it in data["layers"].values())
    goals = "\n".join(
        (
            goal(
                f"≥ {speed:.0f} × the Go builder's speed on {', '.join(judged)}",
                min(speed_ups) >= speed,
                f"{min(speed_ups):.1f} × at least",
            ),
            goal("output no larger than the Go builder's", max(sizes) <= 1, f"{max(sizes):.4f} × at most"),
            goal("peak memory under 300 MB", peak < GOAL_MEMORY, f"{megabytes(peak)} MB at most"),
        )
    )
    return f"{table(head, rows)}\n\n{goals}"
