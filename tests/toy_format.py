"""A format of one's own, as a third party would add it: layers as plain tars under an annotation."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import ClassVar

from pydantic import Field

from drivers.api import (
    ANNOTATION_SOURCE_DIGEST,
    BlobWriter,
    ConvertedLayer,
    DriverOptions,
    OpenBlob,
    OptionsModel,
)
from drivers.checking import CheckReport, Finding, Original, find_source, image_manifests
from drivers.inflate import Inflater
from drivers.layerwise import LayerwiseDriver
from drivers.limits import LayerLimits
from drivers.tar import TarParser
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

MARK = "example.com/toy"


class ToyOptions(DriverOptions):
    size: int = Field(default=1, ge=1, le=9)
    """Of nothing in particular."""


class ToyDriver(LayerwiseDriver):
    type: ClassVar[str] = "toy"
    version: ClassVar[str] = "1"
    options: ClassVar[OptionsModel] = ToyOptions

    def __init__(self, limits: LayerLimits | None = None) -> None:
        self._limits = limits or LayerLimits()

    def fingerprint(self, option: DriverOptions) -> str:
        return hashlib.sha256(f"{self.type} {self.version} {option.model_dump_json()}".encode()).hexdigest()

    def recognises_layer(self, layer: Descriptor) -> bool:
        return MARK in layer.annotations

    async def convert_layer(
        self, layer: Descriptor, open_blob: OpenBlob, writer: BlobWriter, option: DriverOptions
    ) -> ConvertedLayer:
        async with open_blob() as pieces:
            async for piece in self._plain(pieces):
                await writer.write(piece)
        descriptor = await writer.commit(media_types.OCI_LAYER, {MARK: "1"})
        return ConvertedLayer(descriptor, descriptor.digest)

    async def check(self, store: ImageStore, reference: Reference, original: Original | None) -> CheckReport:
        report = CheckReport()
        own = Original(store, reference)
        for image in await image_manifests(store, reference, await store.manifest(reference)):
            report.images += 1
            recorded = image.annotations.get(ANNOTATION_SOURCE_DIGEST)
            found = await find_source(recorded, None, given=original, own=own, report=report)
            if found is None:
                continue
            for mine, theirs in zip(image.layers, found[1].layers, strict=True):
                report.blobs += 1
                digests = [await self._digest(own, mine), await self._digest(found[0], theirs)]
                if digests != [mine.digest] * 2:
                    report.findings.append(Finding(image.digest, str(mine.digest), "is not its source's"))
        return report

    async def _digest(self, place: Original, layer: Descriptor) -> Digest:
        content = hashlib.sha256()
        async with place.store.open_blob(place.reference, layer) as pieces:
            async for piece in self._plain(pieces):
                content.update(piece)
        return Digest(f"sha256:{content.hexdigest()}")

    async def _plain(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        inflater, parser = Inflater(self._limits), TarParser(self._limits)

        def inspected(piece: bytes) -> bytes:
            for _ in parser.feed(piece):
                pass
            return bytes(piece)

        async for piece in pieces:
            for plain in inflater.feed(piece):
                yield inspected(plain)
        for plain in inflater.finish():
            yield inspected(plain)
        parser.finish()
