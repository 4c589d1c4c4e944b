"""Layers made in memory, a source that opens them, and a writer that keeps what comes."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import zstandard

from drivers.api import ConvertedLayer, OpenBlob
from drivers.estargz.driver import EstargzDriver
from drivers.estargz.options import EstargzOptions
from drivers.estargz.workers import Workers
from drivers.limits import LayerLimits
from drivers.stargz.reader import ReadRange
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest

ANY_LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest("sha256:" + "0" * 64), 1)


class MemoryWriter:
    """A ``BlobWriter``."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.committed = False

    async def write(self, data: bytes | memoryview) -> None:
        self.data += data

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        self.committed = True
        digest = Digest(f"sha256:{hashlib.sha256(self.data).hexdigest()}")
        return Descriptor(media_type, digest, len(self.data), annotations or {})


def source(blob: bytes, piece: int = 1 << 16) -> OpenBlob:
    """Opens ``blob`` as a stream of pieces."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(blob), piece):
                yield blob[start : start + piece]

        yield pieces()

    return opened


def ranges(blob: bytes | bytearray) -> ReadRange:
    async def read(start: int, length: int) -> bytes:
        return bytes(blob[start : start + length])

    return read


async def convert(
    blob: bytes,
    option: EstargzOptions | None = None,
    *,
    limits: LayerLimits | None = None,
    workers: Workers | None = None,
    writer: MemoryWriter | None = None,
    piece: int = 1 << 16,
) -> tuple[ConvertedLayer, bytes]:
    """The converted layer and its bytes."""
    writer = writer or MemoryWriter()
    driver = EstargzDriver(limits, workers or Workers(threads=2))
    made = await driver.convert_layer(ANY_LAYER, source(blob, piece), writer, option or EstargzOptions())
    assert writer.committed
    return made, bytes(writer.data)


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    """One entry; ``fields`` are attributes of ``TarInfo``."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mtime = 1_700_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], archive_format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=archive_format, errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


CHUNK = 64 << 10
FILES = {
    "empty": b"",
    "small": b"hello",
    "block": b"b" * 512,
    "one-chunk": bytes(range(256)) * 256,
    "two-chunks": b"2" * (CHUNK + 1),
    "even": bytes(range(1, 129)) * 1024,
    "many": bytes(range(251)) * 3000,
    "über/file": b"unicode",
}
LAYER = tar(
    [
        member("d/", kind=tarfile.DIRTYPE),
        *[member(f"d/{name}", data) for name, data in FILES.items()],
        member("d/link", kind=tarfile.SYMTYPE, linkname="small"),
        member("d/hard", kind=tarfile.LNKTYPE, linkname="d/many"),
        member("d/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("d/disk", kind=tarfile.BLKTYPE, devmajor=8, devminor=0),
        member("d/pipe", kind=tarfile.FIFOTYPE),
        member("d/.wh.gone"),
        member("d/.wh..wh..opq"),
        member("d/attrs", b"x", pax_headers={"SCHILY.xattr.security.capability": "\x01\x00é", "mtime": "1.5"}),
        member("d/" + "long" * 60, b"y", uname="root", gname="root"),
    ]
)
