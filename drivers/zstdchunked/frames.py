"""zstd frames: of a batch's members, and of the table."""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

import zstandard

from drivers.stargz.batch import Batch

_TABLE_LEVEL: Final = 3


class _ThreadCompressors(threading.local):
    """A compressor serves one thread at a time."""

    def __init__(self) -> None:
        self.by_level: dict[int, zstandard.ZstdCompressor] = {}


_compressors = _ThreadCompressors()


def library_version() -> str:
    """Of zstd: another may make other bytes of the same data."""
    return ".".join(map(str, zstandard.ZSTD_VERSION))


def _compressor(level: int) -> zstandard.ZstdCompressor:
    found = _compressors.by_level.get(level)
    if found is None:
        found = _compressors.by_level[level] = zstandard.ZstdCompressor(level)
    return found


def make(batch: Batch, level: int) -> Batch:
    """Hash every payload and make a frame of every member. Runs in a worker thread.

    All members are compressed in one call, so that many small files do not fight for the interpreter.
    """
    view, starts = memoryview(batch.data), batch.starts
    hashes = [
        hashlib.sha256(view[start : start + payload]).hexdigest()
        for start, payload in zip(starts, batch.payloads, strict=True)
    ]
    batch.digests = "".join(hashes).encode("ascii")
    if batch.size:
        segments = array("Q", bytes(16 * len(starts)))  # offset and size of each
        segments[::2] = array("Q", starts)
        ends = (*starts[1:], batch.size)
        segments[1::2] = array("Q", [end - start for start, end in zip(starts, ends, strict=True)])
        made = _compressor(level).multi_compress_to_buffer(zstandard.BufferWithSegments(batch.data, segments.tobytes()))
        frames = [made[number].tobytes() for number in range(len(starts))]
    else:  # of a layer without a byte, which is no segment
        frames = [_compressor(level).compress(b"")]
    batch.sizes.extend(map(len, frames))
    batch.members = b"".join(frames)
    return batch


class FramedSegments:
    """The table, a frame a segment."""

    def compress(self, text: bytes) -> bytes:
        return _compressor(_TABLE_LEVEL).compress(text)

    def inflate(self, segments: Iterable[bytes]) -> Iterator[bytes]:
        decompressor = zstandard.ZstdDecompressor()
        return map(decompressor.decompress, segments)
