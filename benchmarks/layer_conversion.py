"""One layer through a driver, from a file or a generator into a file: what a measured process does."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import usage
from benchmarks.inputs import small_files, stream
from drivers.api import DriverOptions
from drivers.estargz import EstargzDriver
from drivers.layerwise import LayerwiseDriver
from drivers.zstdchunked import ZstdChunkedDriver
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest

_PIECE = 256 << 10
Pieces = Callable[[], Iterator[bytes]]


def of_file(path: Path) -> Pieces:
    def pieces() -> Iterator[bytes]:
        with path.open("rb") as file:
            while data := file.read(_PIECE):
                yield data

    return pieces


def estargz(arguments: dict[str, Any]) -> dict[str, Any]:
    """``layer``: a file, or ``bytes`` or ``entries``: of a generated tar; ``out``: a file."""
    return _converted(arguments, EstargzDriver())


def zstdchunked(arguments: dict[str, Any]) -> dict[str, Any]:
    """As :func:`estargz`; ``option``: of the driver."""
    return _converted(arguments, ZstdChunkedDriver())


def _converted(arguments: dict[str, Any], driver: LayerwiseDriver) -> dict[str, Any]:
    if "layer" in arguments:
        pieces = of_file(Path(arguments["layer"]))
    elif "bytes" in arguments:
        pieces = lambda: stream(arguments["bytes"])  # noqa: E731
    else:
        pieces = lambda: small_files(arguments["entries"])  # noqa: E731
    option = driver.options(**arguments.get("option", {}))
    return uvloop.run(_through(driver, option, pieces, Path(arguments["out"])))


async def _through(driver: LayerwiseDriver, option: DriverOptions, pieces: Pieces, out: Path) -> dict[str, Any]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
        yield stream_of(pieces)

    with out.open("wb") as file:
        writer = FileWriter(file)
        before, start = usage.cpu_seconds(), time.perf_counter()
        await driver.convert_layer(_ANY_LAYER, opened, writer, option)
        return measured(writer.size, start, before)


def measured(size: int, start: float, cpu_before: float) -> dict[str, Any]:
    wall = time.perf_counter() - start
    return {"size": size, "wall": wall, "cpu": usage.cpu_seconds() - cpu_before, "rss": usage.peak_bytes()}


async def stream_of(pieces: Pieces) -> AsyncIterator[bytes]:
    for data in pieces():
        yield data
        await asyncio.sleep(0)


class FileWriter:
    """A ``BlobWriter`` into a file, hashed as an upload is."""

    def __init__(self, file: Any) -> None:
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


_ANY_LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest("sha256:" + "0" * 64), 1)
