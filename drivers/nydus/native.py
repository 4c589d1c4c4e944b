"""The native builder: one stream in, one stream out, no file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from drivers.api import Content
from drivers.limits import LayerLimits
from drivers.nydus import media
from drivers.nydus.bootstrap_layer import BootstrapLayer
from drivers.nydus.image import merge_layers
from drivers.nydus.layer_source import Layer
from drivers.nydus.parameters import Parameters
from drivers.nydus.pipeline import BATCH_BYTES, LayerPipeline
from drivers.nydus.tar_walk import open_walk
from shared.oci.descriptor import Descriptor

_IN_FLIGHT_BYTES = 48 << 20
"""Of chunks that one layer may have between its walker and its upload."""


class NativeBuilder:
    """``pool``, with ``workers`` threads, compresses for every layer under way in this process."""

    def __init__(self, pool: Executor, limits: LayerLimits, *, workers: int) -> None:
        self._pool = pool
        self._limits = limits
        self._workers = workers

    async def version(self) -> str | None:
        return None

    async def convert_layer(
        self, layer: Descriptor, content: Content, parameters: Parameters
    ) -> tuple[Descriptor, Layer]:
        affordable = _IN_FLIGHT_BYTES // max(parameters.chunk_size, BATCH_BYTES)
        # Two batches a worker keep it busy; with large chunks memory decides, but never below one for each of two workers.
        in_flight = max(2, min(2 * self._workers + 2, affordable))
        pipeline = LayerPipeline(parameters, self._pool, in_flight=in_flight)
        async with content.create() as writer:
            async with open_walk(layer, content, self._limits, parameters.chunk_size) as walk:
                ending = await pipeline.run(walk, writer)
            descriptor = await writer.commit(media.BLOB_LAYER, {media.NYDUS_BLOB: "true"})
        for blob in ending.bootstrap.blobs:
            blob.id = descriptor.digest.hex
        return descriptor, Layer(descriptor.digest, ending.bootstrap, ending.meta)

    async def merge(self, layers: Sequence[Layer], parameters: Parameters) -> BootstrapLayer:
        return await asyncio.to_thread(merge_layers, layers, parameters)
