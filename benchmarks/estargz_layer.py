"""eStargz, layer by layer, beside the Go reference builder at its default level, in the same run.

    python benchmarks/estargz_layer.py                    # all layers, Markdown on standard output
    python benchmarks/estargz_layer.py --layers small     # one of: base python node small huge
    python benchmarks/estargz_layer.py --memory           # peak memory at 200 MB against 4 GB

The layers are made on the spot (Debian by mmdebstrap, pip and npm packages, the rest generated) as gzip, level 6, and kept in
``--cache``. Each run is a process of its own. Wall time includes inflating the source and writing the result to a file.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drivers.estargz import EstargzDriver, EstargzOptions
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from tests.integration.estargz.oracle import ask

MIB = 1 << 20
PIP = ("numpy", "matplotlib", "aiohttp", "fastapi", "pydantic", "sqlalchemy", "django", "grpcio")
NPM = ("next", "webpack", "typescript", "eslint", "@babel/preset-env", "jest")
ANY_LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest("sha256:" + "0" * 64), 1)


def base(tar: Path) -> None:
    """A Debian minbase."""
    command = ["mmdebstrap", "--variant=minbase", "--format=tar", "--quiet", "bookworm", str(tar)]
    subprocess.run(command, check=True)


def python(tar: Path) -> None:
    """Python packages, byte-compiled."""
    tree = tar.with_suffix(".tree")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--compile", "--target", str(tree), *PIP], check=True)
    pack_tree(tree, tar, "usr/lib/python3/dist-packages")


def node(tar: Path) -> None:
    """A node_modules tree."""
    tree = tar.with_suffix(".tree")
    tree.mkdir(exist_ok=True)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tree), *NPM], check=True)
    pack_tree(tree, tar, "app")


def small(tar: Path) -> None:
    """100,000 files of 100 to 1,800 bytes in 2,000 directories."""
    chance = random.Random(5)
    words = [f"{chance.getrandbits(40):x}".encode() for _ in range(3000)]
    with tarfile.open(tar, "w") as archive:
        for number in range(100_000):
            folder = f"srv/data/{number // 50}"
            if number % 50 == 0:
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            data = b" ".join(chance.choices(words, k=chance.randint(10, 180)))
            entry = tarfile.TarInfo(f"{folder}/{number}.json")
            entry.size, entry.mtime = len(data), 1_700_000_000 + number % 100
            archive.addfile(entry, io.BytesIO(data))


def huge(tar: Path) -> None:
    """Three files of 128 MiB: half of it noise, half of it text."""
    chance = random.Random(6)
    words = [f"{chance.getrandbits(40):x} ".encode() for _ in range(3000)]
    with tarfile.open(tar, "w") as archive:
        for number in range(3):
            pieces = [chance.randbytes(MIB) if piece % 2 else text(chance, words) for piece in range(128)]
            entry = tarfile.TarInfo(f"models/{number}.bin")
            entry.size = 128 * MIB
            archive.addfile(entry, io.BytesIO(b"".join(pieces)))


def text(chance: random.Random, words: list[bytes]) -> bytes:
    return b"".join(chance.choices(words, k=130_000))[:MIB].ljust(MIB, b" ")


def pack_tree(tree: Path, tar: Path, prefix: str) -> None:
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tree, prefix)


LAYERS: Mapping[str, Callable[[Path], None]] = {
    "base": base,
    "python": python,
    "node": node,
    "small": small,
    "huge": huge,
}


def made(name: str, cache: Path) -> tuple[Path, int]:
    """The gzip layer and the bytes of its tar."""
    cache.mkdir(parents=True, exist_ok=True)
    tar, layer = cache / f"{name}.tar", cache / f"{name}.tar.gz"
    if not layer.exists():
        LAYERS[name](tar)
        with tar.open("rb") as source, gzip.open(cache / "part", "wb", 6) as target:
            while data := source.read(MIB):
                target.write(data)
        (cache / "part").rename(layer)
    return layer, tar.stat().st_size


class FileWriter:
    """A ``BlobWriter`` into a file, hashed as an upload would be."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._size = 0

    async def write(self, data: bytes | memoryview) -> None:
        await asyncio.to_thread(self._file.write, data)
        self._size += len(data)

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        self._file.close()
        return Descriptor(media_type, ANY_LAYER.digest, self._size, annotations or {})


def convert(pieces: Callable[[], Iterator[bytes]], out: Path) -> dict[str, float]:
    """One conversion in this process."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
        async def stream() -> AsyncIterator[bytes]:
            for data in pieces():
                yield data
                await asyncio.sleep(0)

        yield stream()

    children_peak = 0

    async def run() -> int:
        nonlocal children_peak
        driver = EstargzDriver()
        result = await driver.convert_layer(ANY_LAYER, opened, FileWriter(out), EstargzOptions())
        children_peak = sum(peak(int(pid)) for pid in children_of_this_process())
        return result.descriptor.size

    start = time.perf_counter()
    size = asyncio.run(run())
    wall = time.perf_counter() - start
    # Children are waited for when the driver has gone, so that they count.
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return {"size": size, "wall": wall, "cpu": cpu, "rss": own.ru_maxrss * 1024 + children_peak}


def children_of_this_process() -> list[str]:
    return [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


def peak(pid: int) -> int:
    """Peak RSS in bytes. A child's ``ru_maxrss`` would count this process's memory from before its exec."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def ours(layer: Path, out: Path) -> dict[str, float]:
    def pieces() -> Iterator[bytes]:
        with layer.open("rb") as file:
            while data := file.read(256 << 10):
                yield data

    return convert(pieces, out)


def synthetic(size: int, out: Path) -> dict[str, float]:
    """A plain tar of ``size`` bytes that exists nowhere as a whole: files of 10 kB and of 64 MiB."""

    def pieces() -> Iterator[bytes]:
        block = random.Random(1).randbytes(MIB // 2) + bytes(MIB // 2)
        left, number = size, 0
        while left > 0:
            length = 64 * MIB if number % 2000 == 1999 else 10_240
            entry = tarfile.TarInfo(f"data/{number}")
            entry.size = length
            yield entry.tobuf()
            for start in range(0, length, MIB):
                yield block[: min(MIB, length - start)]
            left -= length + 512
            number += 1
        yield bytes(1024)

    return convert(pieces, out)


def process(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(run[key] for run in runs) for key in ("size", "wall", "cpu", "rss")}


def compare(names: list[str], repeats: int, cache: Path) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {repeats} runs, medians.\n"
    )
    print("| layer | tar, MB | builder | MB/s of tar | speed-up | layer, bytes | size ratio | CPU s | peak RSS, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    out = cache / "out"
    for name in names:
        layer, size = made(name, cache)
        runs: dict[str, list[dict[str, Any]]] = {"Go, level 9": [], "ICS": []}
        for _ in range(repeats):
            runs["Go, level 9"].append(ask("build", layer, out, "9", "0"))
            runs["ICS"].append(process("--one", str(layer), "--cache", str(cache)))
        go = medians(runs["Go, level 9"])
        for builder, results in runs.items():
            it = medians(results)
            print(
                f"| {name} | {size / 1e6:.0f} | {builder} | {size / it['wall'] / 1e6:.1f} | {go['wall'] / it['wall']:.1f}"
                f" | {it['size']:,.0f} | {it['size'] / go['size']:.4f} | {it['cpu']:.1f} | {it['rss'] / 1e6:.0f} |",
                flush=True,
            )


def memory(cache: Path) -> None:
    print("| tar, MB | wall, s | peak RSS, MB |\n| --- | --- | --- |")
    for size in (200_000_000, 4_000_000_000):
        it = process("--synthetic", str(size), "--cache", str(cache))
        print(f"| {size / 1e6:.0f} | {it['wall']:.1f} | {it['rss'] / 1e6:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="*", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("var/bench"))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--synthetic", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(ours(arguments.one, arguments.cache / "out")))
    elif arguments.synthetic:
        print(json.dumps(synthetic(arguments.synthetic, arguments.cache / "out")))
    elif arguments.memory:
        arguments.cache.mkdir(parents=True, exist_ok=True)
        memory(arguments.cache)
    else:
        compare(arguments.layers, arguments.repeats, arguments.cache)


if __name__ == "__main__":
    main()
