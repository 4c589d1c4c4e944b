"""``python -m tests.integration.resources.hostile DRIVER CASE``: convert a hostile image, say how it ended and what memory it took.

A process of its own, because only a whole process has a peak that can be measured.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import struct
import sys
import tarfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from drivers.testing.content import MemoryWriter, Repository
from shared.errors import IcsError
from shared.messages import DriverChoice
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import encode_manifest
from shared.oci.reference import Reference
from shared.settings.model import Limits
from tests.unit.consumer.support import converter, progress, request, source
from tests.watched_store import WatchedStore

MIB = 1 << 20
LIMITS = Limits(layer_size=256 * MIB, layer_entries=50_000, compression_ratio=400, memory=128 * MIB)


def _blocks(count: int, size: int) -> bytes:
    """A zstd frame of ``count`` run-length blocks of ``size`` zeros, 4 bytes each."""
    block = struct.pack("<I", size << 3 | 1 << 1)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * count


def _gzip_bomb() -> Iterator[bytes]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    member = b"".join(packer.compress(bytes(MIB)) for _ in range(16)) + packer.flush()
    for _ in range(1000):  # 16 GiB
        yield member


def _large_files() -> Iterator[bytes]:
    """Each may be; together they may not, and no ratio tells."""
    noise = gzip.compress(random.Random(1).randbytes(MIB), 0)
    for number in range(1000):
        info = tarfile.TarInfo(f"noise-{number}")
        info.size = 32 * MIB
        yield gzip.compress(info.tobuf(), 0)
        yield from (noise for _ in range(32))


def _entries(count: int) -> Iterator[bytes]:
    """Empty files with names of their own."""
    template = bytearray(tarfile.TarInfo("f" + "0" * 9).tobuf(tarfile.USTAR_FORMAT))
    base = int(bytes(template[148:154]), 8)
    batch = []
    for number in range(count):
        digits = b"%09d" % number
        template[1:10] = digits
        template[148:154] = b"%06o" % (base + sum(digits) - 9 * 48)
        batch.append(bytes(template))
        if len(batch) == 2000:
            yield gzip.compress(b"".join(batch), 1)
            batch.clear()


def _record(size: int) -> Iterator[bytes]:
    """A PAX header that announces ``size`` bytes, and sends them."""
    info = tarfile.TarInfo("./PaxHeaders/f")
    info.type, info.size = tarfile.XHDTYPE, size
    yield gzip.compress(info.tobuf(tarfile.GNU_FORMAT), 1)  # numbers of any size
    member = gzip.compress(b"11 path=xx\n" * 90_000, 1)
    for _ in range(1000):
        yield member


def _many_records() -> Iterator[bytes]:
    """Small ones without end before one entry."""
    info = tarfile.TarInfo("./PaxHeaders/f")
    info.type, info.size = tarfile.XHDTYPE, 512
    body = b"512 comment=" + b"c" * 499 + b"\n"
    member = gzip.compress((info.tobuf(tarfile.USTAR_FORMAT) + body) * 1000, 1)
    for _ in range(1000):
        yield member


def _absurd_size() -> Iterator[bytes]:
    info = tarfile.TarInfo("f")
    info.size = 1 << 62
    yield gzip.compress(info.tobuf(tarfile.GNU_FORMAT), 1)
    yield from _gzip_bomb()


CASES: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "gzip bomb": _gzip_bomb,
    "zstd bomb": lambda: iter([_blocks(100_000, 128 << 10)]),
    "large files": _large_files,
    "ten million entries": lambda: _entries(10_000_000),
    "gigantic record": lambda: _record(8 << 30),
    "records without end": _many_records,
    "absurd size": _absurd_size,
}


class Sink(MemoryWriter):
    """Keeps nothing: what is measured is the conversion."""

    async def write(self, data: bytes | memoryview) -> None: ...


class HostileStore(WatchedStore):
    """Its layer is made while it is read, and has no end that anybody would wait for."""

    layer: Descriptor
    pieces: Callable[[], Iterator[bytes]]

    @asynccontextmanager
    async def open_blob(self, repository: Reference, blob: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        if blob.digest != self.layer.digest:
            async with super().open_blob(repository, blob) as stream:
                yield stream
            return

        async def made() -> AsyncIterator[bytes]:
            for piece in self.pieces():
                for start in range(0, len(piece), 65536):
                    yield piece[start : start + 65536]

        yield made()

    @asynccontextmanager
    async def upload(self, repository: Reference) -> AsyncIterator[MemoryWriter]:
        async with super().upload(repository):
            yield Sink(Repository())


def status(field: str) -> int:
    """Bytes, of this process."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(field)]
    return int(line.split()[1]) * 1024


async def convert(driver: str, case: str) -> dict[str, Any]:
    store = HostileStore()
    config = orjson.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b"x"))]}}
    )
    store.layer = Descriptor(media_types.OCI_LAYER_GZIP, Digest.of(b"hostile"), 1 << 30)
    store.pieces = CASES[case]
    store.repository(source()).blobs = {Digest.of(config): config, store.layer.digest: b""}
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": Descriptor(media_types.OCI_CONFIG, Digest.of(config), len(config)).to_json(),
            "layers": [store.layer.to_json()],
        }
    )
    await store.put_manifest(source(), manifest)
    made = converter(store, limits=LIMITS)
    before = status("VmRSS")
    told: dict[str, object] = {"code": "", "limit": "", "message": ""}
    try:
        await made.convert(request(driver=DriverChoice(type=driver)), progress())
    except IcsError as error:
        told = {"code": error.code, "limit": error.details.get("limit", ""), "message": error.message}
    return {**told, "grown": status("VmHWM") - before, "open_uploads": store.open_uploads}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(convert(sys.argv[1], sys.argv[2]))))
