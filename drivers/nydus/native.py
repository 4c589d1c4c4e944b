"""The native builder: one stream in, one stream out, no file."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from concurrent.futures import Executor

from drivers.api import Content
from drivers.limits import LayerLimits
from drivers.nydus import media
from drivers.nydus.bootstrap_layer import BootstrapLayer
from drivers.nydus.image import merged_bootstrap, validated_layer
from drivers.nydus.layer_source import Layer
from drivers.nydus.parameters import Parameters
from drivers.nydus.pipeline import BATCH_BYTES, LayerPipeline
from drivers.nydus.tar_walk import open_walk
from shared.oci.descriptor import Descriptor

_IN_FLIGHT_BYTES = 48 << 20
"""Of chunks that one layer may have between its walker and its upload."""


_COLLECT_EVERY = (20_000, 20, 20)


def _spare_collector() -> None:
    """Look for cycles less often, in the whole process.

    A layer's tree is hundreds of thousands of objects that live on and have no cycles: looking through them after every
    700 new ones, as is the default, costs a tenth of a conversion.
    """
    if gc.get_threshold()[0] < _COLLECT_EVERY[0]:
        gc.set_threshold(*_COLLECT_EVERY)


class NativeBuilder:
    """``pool``, with ``workers`` threads, compresses for every layer under way in this process."""

    def __init__(self, pool: Executor, limits: LayerLimits, *, workers: int) -> None:
        _spare_collector()
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
        return descriptor, Layer(descriptor.digest, ending.bootstrap, ending.meta, ending.chunk_digests)

    async def merge(self, layers: Sequence[Layer], parameters: Parameters) -> BootstrapLayer:
        return await validated_layer(await asyncio.to_thread(merged_bootstrap, layers, parameters), layers)
