"""How time and memory grow: with bytes, with entries, with images that have a base in common."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, child, interleaved
from benchmarks.charts import Chart, Line
from benchmarks.consuming import consumer
from benchmarks.images import push, registry
from benchmarks.inputs import layer, own_layers, tar_of_entries
from benchmarks.markdown import goal, megabytes, seconds, table
from tests.servers.registry import RegistryServer

BYTES = (50_000_000, 100_000_000, 200_000_000, 500_000_000, 1_000_000_000, 2_000_000_000, 4_000_000_000)
QUICK_BYTES = (5_000_000, 20_000_000)
ENTRIES = (1_000, 10_000, 100_000, 300_000, 1_000_000)
QUICK_ENTRIES = (500, 2_000)
IMAGES = (1, 10, 100)
QUICK_IMAGES = (1, 3)
AT_ONCE = 5
NOWHERE = Path("/dev/null")
GOAL_MEMORY = 300e6
LINEAR = 1.25
"""A unit of the largest may cost so much more than the cheapest unit that was measured, and still count as linear."""
SMALL, LARGE = 200_000_000, 4_000_000_000
FLAT = 1.25


def measure_bytes(bench: Bench) -> dict[str, Any]:
    sizes = QUICK_BYTES if bench.quick else BYTES
    bench.say(f"layers of {sizes[0] / 1e6:.0f} to {sizes[-1] / 1e6:,.0f} MB out of a generator")
    runs = interleaved(
        bench,
        {str(size): partial(child, "estargz", {"bytes": size, "out": str(NOWHERE)}) for size in sizes},
    )
    return {"runs": runs}


def measure_entries(bench: Bench) -> dict[str, Any]:
    made = {count: tar_of_entries(bench, count) for count in (QUICK_ENTRIES if bench.quick else ENTRIES)}
    bench.say(f"layers of up to {max(made):,} entries")
    runs = interleaved(
        bench,
        {
            str(count): partial(child, "estargz", {"layer": str(tar), "out": str(NOWHERE)})
            for count, tar in made.items()
        },
    )
    return {"runs": {count: {**run, "tar": made[int(count)].stat().st_size} for count, run in runs.items()}}


def measure_images(bench: Bench) -> dict[str, Any]:
    counts = QUICK_IMAGES if bench.quick else IMAGES
    most = max(counts)
    base, own = layer(bench, "base"), own_layers(bench, most)
    with bench.folder("scaling") as folder, registry(folder / "source") as source:
        for number, each in enumerate(own):
            push([base, each], f"{source.host}/library/based-{number}:v1", folder)
            push([each], f"{source.host}/library/alone-{number}:v1", folder)
        bench.say(f"{most} images on one base, {bench.rounds} rounds")
        runs = interleaved(bench, {str(n): partial(_images, bench, source, "based", n) for n in counts})
        alone = interleaved(bench, {"alone": lambda: _images(bench, source, "alone", most)})["alone"]
    tars = {str(n): base.tar_size + sum(each.tar_size for each in own[:n]) for n in counts}
    return {
        "base": base.tar_size,
        "own": own[0].tar_size,
        "runs": {n: {**run, "tar": tars[n]} for n, run in runs.items()},
        "alone": {**alone, "images": most},
    }


def _images(bench: Bench, source: RegistryServer, name: str, count: int) -> dict[str, Any]:
    with (
        bench.folder("scaling/run") as folder,
        registry(folder / "target") as target,
        consumer(folder, [source.host, target.host], concurrency=AT_ONCE) as running,
    ):
        return running.convert(
            [
                (f"{source.host}/library/{name}-{number}:v1", f"{target.host}/library/{name}-{number}:v1_esgz")
                for number in range(count)
            ]
        )


def render_bytes(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    runs = {int(size): run for size, run in data["runs"].items()}
    rows = [
        (
            megabytes(size), seconds(run["wall"]), f"{size / run['wall'] / 1e6:.1f}", seconds(run["cpu"]), megabytes(run["rss"]),
            f"{run['wall_spread']:.0%}",
        )
        for size, run in runs.items()
    ]  # fmt: skip
    head = ("tar, MB", "seconds", "MB/s of tar", "CPU, s", "peak RSS, MB", "spread")
    small, large = runs.get(SMALL, runs[min(runs)]), runs.get(LARGE, runs[max(runs)])
    peak = max(run["rss"] for run in runs.values())
    growth = _growth({size: run["wall"] for size, run in runs.items()})
    goals = "\n".join(
        (
            goal(
                "time grows linearly with bytes",
                growth <= LINEAR,
                f"the largest costs {growth:.2f} × the cheapest a byte",
            ),
            goal("peak memory under 300 MB", peak < GOAL_MEMORY, f"{megabytes(peak)} MB at most"),
            goal(
                "peak memory independent of the layer's size, 200 MB against 4 GB",
                large["rss"] <= FLAT * small["rss"],
                f"{megabytes(small['rss'])} MB and {megabytes(large['rss'])} MB",
            ),
        )
    )
    charts = [
        Chart(
            "scaling-bytes", "One layer: time by bytes", "tar, MB", "seconds",
            [Line("eStargz", [(size / 1e6, run["wall"]) for size, run in runs.items()])],
        ),
        Chart(
            "scaling-memory", "One layer: peak memory by bytes", "tar, MB", "peak RSS, MB",
            [Line("eStargz", [(size / 1e6, run["rss"] / 1e6) for size, run in runs.items()])],
        ),
    ]  # fmt: skip
    how = (
        "Tars that exist nowhere as a whole: a generator makes them, nothing keeps the result. Files of 10 kB and of 64 MiB, half"
        " noise, half zeros."
    )
    return f"{how}\n\n{table(head, rows)}\n\n{goals}", charts


def render_entries(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    runs = {int(count): run for count, run in data["runs"].items()}
    rows = [
        (
            f"{count:,}", megabytes(run["tar"]), seconds(run["wall"]), f"{run['wall'] / count * 1e6:.1f}", megabytes(run["rss"]),
            f"{run['wall_spread']:.0%}",
        )
        for count, run in runs.items()
    ]  # fmt: skip
    head = ("files", "tar, MB", "seconds", "µs a file", "peak RSS, MB", "spread")
    growth = _growth({count: run["wall"] for count, run in runs.items()})
    goals = goal(
        "time grows linearly with entries", growth <= LINEAR, f"the largest costs {growth:.2f} × the cheapest a file"
    )
    charts = [
        Chart(
            "scaling-entries", "One layer: time by entries", "files, thousands", "seconds",
            [Line("eStargz", [(count / 1e3, run["wall"]) for count, run in runs.items()])],
        ),
        Chart(
            "scaling-entries-memory", "One layer: peak memory by entries", "files, thousands", "peak RSS, MB",
            [Line("eStargz", [(count / 1e3, run["rss"] / 1e6) for count, run in runs.items()])],
        ),
    ]  # fmt: skip
    how = "Files of 100 to 1,800 bytes. The table of contents names every file, so memory grows a little with their number."
    return f"{how}\n\n{table(head, rows)}\n\n{goals}", charts


def render_images(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    runs = {int(n): run for n, run in data["runs"].items()}
    base, own = data["base"], data["own"]
    rows = [
        (
            str(n), megabytes(n * (base + own)), megabytes(run["tar"]), f"{run['reused']:.0f} of {2 * n}", seconds(run["wall"]),
            f"{run['tar'] / run['wall'] / 1e6:.1f}", f"{n * (base + own) / run['wall'] / 1e6:,.0f}", megabytes(run["rss"]),
        )
        for n, run in runs.items()
    ]  # fmt: skip
    head = (
        "images", "tar in all, MB", "new of it, MB", "layers reused", "seconds", "MB/s of new", "MB/s of all", "peak RSS, MB",
    )  # fmt: skip
    each = data["alone"]["wall"] / data["alone"]["images"]
    expected = {n: runs[min(runs)]["wall"] + (n - min(runs)) * each for n in runs}
    most = max(runs)
    ratio = runs[most]["wall"] / expected[most]
    goals = goal(f"{most} images cost what their new bytes cost", ratio <= LINEAR, f"{ratio:.2f} × that")
    chart = Chart(
        "scaling-images", "Images with a common base", "images", "seconds",
        [
            Line("measured", [(float(n), run["wall"]) for n, run in runs.items()]),
            Line("the first, and the others without their base", [(float(n), wall) for n, wall in expected.items()]),
        ],
    )  # fmt: skip
    how = (
        f"Each image is the Debian base ({megabytes(base)} MB) and a layer of its own ({own / 1e6:.1f} MB), into an empty registry,"
        f" all queued at once for one consumer, {AT_ONCE} at a time. New bytes: the same layers as images without the base,"
        f" {seconds(each)} s each."
    )
    return f"{how}\n\n{table(head, rows)}\n\n{goals}", [chart]


def _growth(walls: dict[int, float]) -> float:
    """Cost of a unit of the largest over the cheapest unit."""
    each = {size: wall / size for size, wall in walls.items()}
    return each[max(each)] / min(each.values())
