"""The native Nydus builder beside ``nydus-image`` on the same layers in the same run: MB/s of tar, output size, peak memory.

    NYDUS_IMAGE=/path/to/nydus-image python benchmarks/nydus_layer.py [--repeat 3] LAYER.tar ...

Each run is a process of its own, so that peak memory is its own; both read the tar from a file and write the blob to a file,
native output is hashed as an upload would be. The best time of ``--repeat`` runs counts. Without ``NYDUS_IMAGE`` only the
native builder runs.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from drivers.api import Content
from drivers.limits import LayerLimits
from drivers.nydus.native import NativeBuilder
from drivers.nydus.parameters import Parameters
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest

_PIECE = 256 << 10


class _Writer:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    async def write(self, data: bytes | memoryview) -> None:
        await asyncio.to_thread(self._put, data)

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)
        self.size += len(data)

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        return Descriptor(media_type, Digest(f"sha256:{self._hash.hexdigest()}"), self.size, dict(annotations or {}))


class _Files:
    """As much of ``Content`` as the native builder uses: one file in, one file out."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source
        self._target = target
        self.progress = self

    def layer(self, digest: Digest, done: int, total: int) -> None:
        pass

    @asynccontextmanager
    async def open(self, _descriptor: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        with self._source.open("rb") as file:
            yield self._read(file)

    async def _read(self, file: BinaryIO) -> AsyncIterator[bytes]:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece

    @asynccontextmanager
    async def create(self) -> AsyncIterator[_Writer]:
        with self._target.open("wb") as file:
            yield _Writer(file)


async def _native(source: Path, target: Path) -> None:
    workers = os.cpu_count() or 2
    with ThreadPoolExecutor(workers) as pool:
        builder = NativeBuilder(pool, LayerLimits(), workers=workers)
        layer = Descriptor("application/vnd.oci.image.layer.v1.tar", Digest.of(b""), source.stat().st_size)
        await builder.convert_layer(layer, cast("Content", _Files(source, target)), Parameters())


def _reference(source: Path, target: Path) -> list[str]:
    return [
        *(os.environ["NYDUS_IMAGE"], "create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", str(target)),
        *("--whiteout-spec", "none", "--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta"),
        *("--features", "blob-toc", "--compressor", "zstd", "--chunk-size", "0x100000", str(source)),
    ]


def _measure(builder: str, source: Path) -> dict[str, Any]:
    """Runs in a child: wall seconds, CPU seconds, bytes of output, peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "blob"
        start = time.perf_counter()
        if builder == "native":
            asyncio.run(_native(source, target))
            used = resource.getrusage(resource.RUSAGE_SELF)
        else:
            subprocess.run(_reference(source, target), input=b"/\n", check=True, capture_output=True)
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "seconds": time.perf_counter() - start,
            "cpu": used.ru_utime + used.ru_stime,
            "size": target.stat().st_size,
            "peak": used.ru_maxrss / 1024,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("layers", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_measure(arguments.child, arguments.layers[0])))
        return
    builders = ["native", *(["nydus-image"] if os.environ.get("NYDUS_IMAGE") else [])]
    print(f"{'layer':24} {'builder':12} {'MB':>8} {'s':>7} {'MB/s':>7} {'CPU s':>7} {'size MB':>9} {'peak MiB':>9}")
    for layer in arguments.layers:
        runs: dict[str, list[dict[str, Any]]] = {builder: [] for builder in builders}
        for _ in range(arguments.repeat):
            for builder in builders:
                command = [sys.executable, __file__, "--child", builder, str(layer)]
                result = subprocess.run(command, check=True, capture_output=True)
                runs[builder].append(json.loads(result.stdout))
        size = layer.stat().st_size / 1e6
        for builder in builders:
            best = min(runs[builder], key=lambda run: float(run["seconds"]))
            print(
                f"{layer.name:24} {builder:12} {size:8.1f} {best['seconds']:7.2f} {size / best['seconds']:7.1f} "
                f"{best['cpu']:7.2f} {best['size'] / 1e6:9.2f} {best['peak']:9.1f}"
            )


if __name__ == "__main__":
    main()
