"""The zstd:chunked format as a driver."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import orjson

from drivers.api import BlobWriter, ConvertedLayer, DriverOptions, OpenBlob, OptionsModel
from drivers.checking import CheckReport, Original
from drivers.layerwise import LayerwiseDriver
from drivers.limits import LayerLimits
from drivers.stargz.check import check_image
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE
from drivers.stargz.workers import Workers
from drivers.zstdchunked.check import ZSTDCHUNKED, is_zstdchunked
from drivers.zstdchunked.conversion import build
from drivers.zstdchunked.frames import library_version
from drivers.zstdchunked.layout import ANNOTATION_MANIFEST_CHECKSUM, ANNOTATION_MANIFEST_POSITION
from drivers.zstdchunked.options import ZstdChunkedOptions
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.reference import Reference
from shared.registry.api import ImageStore


class ZstdChunkedDriver(LayerwiseDriver):
    """Converts layers to zstd:chunked: lazily pullable, and an ordinary zstd layer to every other runtime.

    Args:
        limits: what one layer may ask for.
        workers: threads and memory that all its conversions share.
    """

    type: ClassVar[str] = "zstdchunked"
    version: ClassVar[str] = "1"
    options: ClassVar[OptionsModel] = ZstdChunkedOptions

    def __init__(self, limits: LayerLimits | None = None, workers: Workers | None = None) -> None:
        self._limits = limits or LayerLimits()
        self._workers = workers or Workers(memory=self._limits.memory)

    def fingerprint(self, option: DriverOptions) -> str:
        return _hash(self.layer_fingerprint(option), self.refers(option))

    def layer_fingerprint(self, option: DriverOptions) -> str:
        chosen = ZstdChunkedOptions.of(option)
        return _hash(self.type, self.version, library_version(), chosen.compression_level, chosen.chunk_size)

    def refers(self, option: DriverOptions) -> bool:
        return ZstdChunkedOptions.of(option).with_referrer

    def recognises_layer(self, layer: Descriptor) -> bool:
        return is_zstdchunked(layer)

    async def check(self, store: ImageStore, reference: Reference, original: Original | None) -> CheckReport:
        return await check_image(ZSTDCHUNKED, store, reference, original=original, limits=self._limits)

    async def convert_layer(
        self,
        layer: Descriptor,  # noqa: ARG002  the seam's signature: the content alone says what the layer is
        open_blob: OpenBlob,
        writer: BlobWriter,
        option: DriverOptions,
    ) -> ConvertedLayer:
        """See :meth:`drivers.layerwise.LayerwiseDriver.convert_layer`. The layer's compression is told by its content."""
        made = await build(open_blob, writer, ZstdChunkedOptions.of(option), self._limits, self._workers)
        annotations = {
            ANNOTATION_TOC_DIGEST: made.toc.digest,
            ANNOTATION_UNCOMPRESSED_SIZE: str(made.uncompressed),
            ANNOTATION_MANIFEST_CHECKSUM: made.toc.checksum,
            ANNOTATION_MANIFEST_POSITION: str(made.toc.position),
        }
        descriptor = await writer.commit(media_types.OCI_LAYER_ZSTD, annotations)
        return ConvertedLayer(descriptor, made.diff_id)


def _hash(*values: object) -> str:
    return hashlib.sha256(orjson.dumps(values)).hexdigest()
