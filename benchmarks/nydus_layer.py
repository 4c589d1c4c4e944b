"""The native Nydus builder beside ``nydus-image`` on the same plain tars, with the same options (zstd, 1 MiB chunks)."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, child, interleaved
from benchmarks.charts import Chart
from benchmarks.inputs import LAYERS, layer
from benchmarks.markdown import goal, megabytes, seconds, table

_ALONE = "`nydus-image` was not given (`--nydus-image`): the native builder was measured alone."


def measure(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {"reference": bench.nydus_image is not None, "layers": {}}
    with bench.folder("nydus") as folder:
        for name in LAYERS:
            made = layer(bench, name)
            bench.say(f"layer {name} to Nydus, {bench.rounds} rounds")
            job = {"layer": str(made.tar), "out": str(folder / "out"), "builder": str(bench.nydus_image)}
            contenders: dict[str, Callable[[], dict[str, Any]]] = {"ics": lambda job=job: child("nydus", job)}  # type: ignore[misc]
            if bench.nydus_image is not None:
                contenders["nydus-image"] = lambda job=job: child("nydus_reference", job)  # type: ignore[misc]
            found["layers"][name] = {"tar": made.tar_size, **interleaved(bench, contenders)}
    return found


def nydus_reference(arguments: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own, so that its children's usage is this builder's."""
    out = Path(arguments["out"])
    out.unlink(missing_ok=True)
    command = [
        *(arguments["builder"], "create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", str(out)),
        *("--whiteout-spec", "none", "--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta"),
        *("--features", "blob-toc", "--compressor", "zstd", "--chunk-size", "0x100000", arguments["layer"]),
    ]
    start = time.perf_counter()
    subprocess.run(command, input=b"/\n", check=True, capture_output=True)
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall": wall,
        "size": os.stat(out).st_size,  # noqa: PTH116
        "cpu": used.ru_utime + used.ru_stime,
        "rss": used.ru_maxrss * 1024,
    }


def render(data: dict[str, Any]) -> tuple[str, list[Chart]]:
    names = {"ics": "ICS", "nydus-image": "nydus-image"}
    rows = []
    for name, it in data["layers"].items():
        reference = it.get("nydus-image")
        for builder, title in names.items():
            if (run := it.get(builder)) is None:
                continue
            ratio = f"{run['wall'] / reference['wall']:.2f}" if reference else "–"
            size = f"{run['size'] / reference['size']:.4f}" if reference else "–"
            rows.append(
                (
                    name, megabytes(it["tar"]), title, f"{it['tar'] / run['wall'] / 1e6:.1f}", ratio,
                    f"{run['size']:,.0f}", size, seconds(run["cpu"]), megabytes(run["rss"]),
                )
            )  # fmt: skip
    head = (
        "layer", "tar, MB", "builder", "MB/s of tar", "time ratio", "output, bytes", "size ratio", "CPU, s", "peak RSS, MB",
    )  # fmt: skip
    return f"{table(head, rows)}\n\n{_goals(data) if data['reference'] else _ALONE}", []


def _goals(data: dict[str, Any]) -> str:
    pairs = {name: (it["ics"], it["nydus-image"]) for name, it in data["layers"].items()}
    times = {name: ics["wall"] / reference["wall"] for name, (ics, reference) in pairs.items()}
    sizes = {name: ics["size"] / reference["size"] for name, (ics, reference) in pairs.items()}
    slowest, largest = max(times, key=times.__getitem__), max(sizes, key=sizes.__getitem__)
    return "\n".join(
        (
            goal(
                "faster than nydus-image on every layer",
                times[slowest] < 1,
                f"{times[slowest]:.2f} × its time on {slowest}",
            ),
            goal(
                "at equal (to 0.1 %) or smaller size",
                sizes[largest] <= 1.001,
                f"{sizes[largest]:.4f} × its size on {largest}",
            ),
        )
    )
