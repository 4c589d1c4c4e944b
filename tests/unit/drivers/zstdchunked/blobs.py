"""Layers converted in memory."""

from __future__ import annotations

import subprocess

from drivers.api import ConvertedLayer
from drivers.limits import LayerLimits
from drivers.stargz.workers import Workers
from drivers.zstdchunked import ZstdChunkedDriver, ZstdChunkedOptions
from tests.unit.drivers.layer_blobs import ANY_LAYER, MemoryWriter, source


async def convert(
    blob: bytes,
    option: ZstdChunkedOptions | None = None,
    *,
    limits: LayerLimits | None = None,
    workers: Workers | None = None,
    writer: MemoryWriter | None = None,
    piece: int = 1 << 16,
) -> tuple[ConvertedLayer, bytes]:
    """The converted layer and its bytes."""
    writer = writer or MemoryWriter()
    driver = ZstdChunkedDriver(limits, workers or Workers(threads=2))
    made = await driver.convert_layer(ANY_LAYER, source(blob, piece), writer, option or ZstdChunkedOptions())
    assert writer.committed
    return made, bytes(writer.data)


def unpacked(blob: bytes) -> bytes:
    """By the reference implementation of zstd."""
    return subprocess.run(["zstd", "-dcq"], input=blob, capture_output=True, check=True).stdout
