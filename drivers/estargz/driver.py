"""The eStargz format as a driver."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import orjson

from drivers.api import BlobWriter, ConvertedLayer, DriverOptions, OpenBlob, OptionsModel
from drivers.checking import CheckReport, Original
from drivers.estargz.check import ESTARGZ, is_estargz
from drivers.estargz.conversion import build, inflate
from drivers.estargz.options import EstargzOptions
from drivers.estargz.workers import Workers
from drivers.layerwise import LayerwiseDriver
from drivers.limits import LayerLimits
from drivers.stargz.check import check_image
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.reference import Reference
from shared.registry.api import ImageStore


class EstargzDriver(LayerwiseDriver):
    """Converts layers to eStargz: lazily pullable, and an ordinary gzip layer to every other runtime.

    Args:
        limits: what one layer may ask for.
        workers: threads and memory that all its conversions share.
    """

    type: ClassVar[str] = "estargz"
    version: ClassVar[str] = "3"
    options: ClassVar[OptionsModel] = EstargzOptions

    def __init__(self, limits: LayerLimits | None = None, workers: Workers | None = None) -> None:
        self._limits = limits or LayerLimits()
        self._workers = workers or Workers(memory=self._limits.memory)

    def fingerprint(self, option: DriverOptions) -> str:
        layers = self.layer_fingerprint(option)
        more = (
            [" config kept"] if EstargzOptions.of(option).uncompress else []
        )  # since diff IDs that stay keep its bytes
        more += [" with_referrer"] if self.refers(option) else []
        return hashlib.sha256("".join((layers, *more)).encode()).hexdigest() if more else layers

    def refers(self, option: DriverOptions) -> bool:
        return EstargzOptions.of(option).with_referrer

    def layer_fingerprint(self, option: DriverOptions) -> str:
        """Equal for spellings of the same output (chunk size 0 and 4194304)."""
        estargz = EstargzOptions.of(option)
        told = [self.type, self.version]
        if estargz.uncompress:
            told.append("uncompress")
        else:
            told += [str(estargz.estargz_compression_level), str(estargz.chunk_size), *estargz.prioritized_files]
        return hashlib.sha256(orjson.dumps(told)).hexdigest()

    def recognises_layer(self, layer: Descriptor) -> bool:
        return is_estargz(layer)

    async def check(self, store: ImageStore, reference: Reference, original: Original | None) -> CheckReport:
        return await check_image(ESTARGZ, store, reference, original=original, limits=self._limits)

    async def convert_layer(
        self,
        layer: Descriptor,  # noqa: ARG002  the seam's signature: the content alone says what the layer is
        open_blob: OpenBlob,
        writer: BlobWriter,
        option: DriverOptions,
    ) -> ConvertedLayer:
        """See :meth:`drivers.layerwise.LayerwiseDriver.convert_layer`. The layer's compression is told by its content."""
        estargz = EstargzOptions.of(option)
        if estargz.uncompress:
            await inflate(open_blob, writer, self._limits, self._workers)
            descriptor = await writer.commit(media_types.OCI_LAYER)
            return ConvertedLayer(descriptor, descriptor.digest)
        made = await build(open_blob, writer, estargz, self._limits, self._workers)
        descriptor = await writer.commit(
            media_types.OCI_LAYER_GZIP,
            {ANNOTATION_TOC_DIGEST: made.toc_digest, ANNOTATION_UNCOMPRESSED_SIZE: str(made.uncompressed)},
        )
        return ConvertedLayer(descriptor, made.diff_id)
