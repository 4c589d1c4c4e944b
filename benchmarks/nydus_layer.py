"""The native Nydus builder beside ``nydus-image`` on the same plain tars, with the same options (zstd, 1 MiB chunks).

Both make a layer's blob and merge it into an image's bootstrap. The native builder's time includes what ``nydus-image`` leaves
to its caller or to ``nydus-image check``: hashing the blob, packing the bootstrap layer, validating both.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvloop

from benchmarks import usage
from benchmarks.bench import Bench, child, interleaved
from benchmarks.charts import Chart
from benchmarks.inputs import LAYERS, layer
from benchmarks.layer_conversion import FileWriter, Pieces, measured, of_file, stream_of
from benchmarks.markdown import goal, megabytes, seconds, table
from drivers.api import Content
from drivers.limits import LayerLimits
from drivers.nydus.blob import toc
from drivers.nydus.bootstrap_layer import BootstrapLayer
from drivers.nydus.compression import decompress
from drivers.nydus.consistency import check_blobs
from drivers.nydus.media import BOOTSTRAP_FILE
from drivers.nydus.native import NativeBuilder
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.decode import check_bootstrap
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest

_ALONE = "`nydus-image` was not given (`--nydus-image`): the native builder was measured alone."
_POLL_SECONDS = 0.01


def measure(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {"reference": bench.nydus_image is not None, "layers": {}}
    with bench.folder("nydus") as folder:
        for name in LAYERS:
            made = layer(bench, name)
            bench.say(f"layer {name} to Nydus, {bench.rounds} rounds")
            job = {"layer": str(made.tar), "out": str(folder / "out"), "builder": str(bench.nydus_image)}
            contenders: dict[str, Callable[[], dict[str, Any]]] = {"ics": partial(child, "nydus", job)}
            if bench.nydus_image is not None:
                contenders["nydus-image"] = partial(child, "nydus_reference", job)
            found["layers"][name] = {"tar": made.tar_size, **interleaved(bench, contenders)}
    return found


def nydus(arguments: dict[str, Any]) -> dict[str, Any]:
    """``layer``: a plain tar; ``out``: a file."""
    return uvloop.run(_native(Path(arguments["layer"]), Path(arguments["out"])))


async def _native(source: Path, out: Path) -> dict[str, Any]:
    workers = len(os.sched_getaffinity(0))
    parameters = Parameters()
    with out.open("wb") as file, ThreadPoolExecutor(workers) as pool:
        writer = FileWriter(file)
        before, start = usage.cpu_seconds(), time.perf_counter()
        builder = NativeBuilder(pool, LayerLimits(), workers=workers)
        described = Descriptor("application/vnd.oci.image.layer.v1.tar", Digest.of(b""), source.stat().st_size)
        content = cast("Content", _Files(of_file(source), writer))
        _, converted = await builder.convert_layer(described, content, parameters)
        layer_wall = time.perf_counter() - start
        last = await builder.merge([converted], parameters)
        found = measured(writer.size, start, before)
        bootstrap = bootstrap_of(last)
        validated = time.perf_counter()
        check_blobs(*check_bootstrap(bootstrap), [converted])
        return {**found, "layer": layer_wall, "validation": time.perf_counter() - validated}


def nydus_reference(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same with the same arguments as nydus-snapshotter's; ``builder``: nydus-image."""
    out = Path(arguments["out"])
    out.unlink(missing_ok=True)
    create = (
        *("create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", str(out)),
        *("--whiteout-spec", "none", "--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta"),
        *("--features", "blob-toc", "--compressor", "zstd", "--chunk-size", "0x100000", arguments["layer"]),
    )
    layer_run = _run(arguments["builder"], *create)
    folder = out.with_suffix(".merge")
    folder.mkdir(exist_ok=True)
    source = folder / hashlib.sha256(out.read_bytes()).hexdigest()
    source.write_bytes(inline_bootstrap(out.read_bytes()))
    merge_run = _run(
        arguments["builder"],
        *("merge", "--log-level", "warn", "--prefetch-policy", "fs", "--output-json", str(folder / "output.json")),
        *("--bootstrap", str(folder / "merged.boot"), str(source)),
    )
    return {
        "size": out.stat().st_size,
        "wall": layer_run["wall"] + merge_run["wall"],
        "layer": layer_run["wall"],
        "cpu": layer_run["cpu"] + merge_run["cpu"],
        "rss": max(layer_run["rss"], merge_run["rss"]),
    }


def _run(*command: str) -> dict[str, float]:
    """Wall and CPU seconds, peak RSS in bytes (looked at every 10 ms)."""
    peak = 0
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(_POLL_SECONDS):
            try:
                peak = max(peak, usage.peak_of(process.pid))
            except (FileNotFoundError, ProcessLookupError, StopIteration):
                return  # it has ended

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = usage.cpu_seconds()
    process.communicate(b"/\n")
    wall = time.perf_counter() - start
    ended.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{command[1]} ended with {process.returncode}")
    return {"wall": wall, "cpu": usage.cpu_seconds() - before, "rss": peak}


def bootstrap_of(layer: BootstrapLayer) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(layer.data), mode="r:gz") as tar:
        member = tar.extractfile(BOOTSTRAP_FILE)
        if member is None:
            raise RuntimeError(f"no {BOOTSTRAP_FILE}")
        return member.read()


def inline_bootstrap(blob: bytes) -> bytes:
    """What a converter cuts out of a layer's blob for the merge."""
    size = toc.toc_size(blob[-4096:])
    entry = toc.decode_toc(blob[-512 - size : -512], len(blob))[toc.BOOTSTRAP]
    return decompress(
        blob[entry.offset : entry.offset + entry.compressed_size], entry.compressor, entry.size, entry.name
    )


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
            validation = f"{run['validation'] / run['wall']:.1%}" if "validation" in run else "–"
            rows.append(
                (
                    name, megabytes(it["tar"]), title, f"{it['tar'] / run['wall'] / 1e6:.1f}", seconds(run["layer"]),
                    seconds(run["wall"]), ratio, validation, f"{run['size']:,.0f}", size, seconds(run["cpu"]),
                    megabytes(run["rss"]),
                )
            )  # fmt: skip
    head = (
        "layer", "tar, MB", "builder", "MB/s of tar", "layer, s", "layer and merge, s", "time ratio", "of it validation",
        "output, bytes", "size ratio", "CPU, s", "peak RSS, MB",
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


class _Files:
    """As much of ``Content`` as the native builder uses: one stream in, one file out."""

    def __init__(self, pieces: Pieces, writer: FileWriter) -> None:
        self._pieces = pieces
        self._writer = writer

    @asynccontextmanager
    async def open(self, _descriptor: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        yield stream_of(self._pieces)

    @asynccontextmanager
    async def create(self) -> AsyncIterator[FileWriter]:
        yield self._writer
