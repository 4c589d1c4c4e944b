"""``NydusDriver``: every selected platform of a source becomes a Nydus image."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import orjson

from drivers.api import (
    ANNOTATION_DRIVER_VERSION,
    ANNOTATION_FINGERPRINT,
    ANNOTATION_SOURCE_DIGEST,
    Content,
    DriverOptions,
    OptionsModel,
    Result,
    Source,
)
from drivers.checking import CheckReport, Original
from drivers.limits import LayerLimits
from drivers.nydus.build_cache import BuildCache
from drivers.nydus.builder import Builder
from drivers.nydus.check import check_image
from drivers.nydus.compression import library_versions
from drivers.nydus.conversion import Conversion
from drivers.nydus.external import ExternalBuilder
from drivers.nydus.image import is_nydus
from drivers.nydus.native import NativeBuilder
from drivers.nydus.options import NydusOptions
from drivers.nydus.zran.builder import ReferringBuilder
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.manifest import ImageManifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

_LAYER_VERSION = "1"
"""Raised when equal source layers become other blobs, and only then: no cached layer is used any more."""


class NydusDriver:
    """RAFS v6 images; see :class:`drivers.nydus.options.NydusOptions`."""

    type: ClassVar[str] = "nydus"
    version: ClassVar[str] = "2"
    """Raised when equal layers become another image: each is made again at its next event, from the layer cache."""
    options: ClassVar[OptionsModel] = NydusOptions

    def __init__(self, limits: LayerLimits | None = None) -> None:
        workers = len(os.sched_getaffinity(0))
        self._limits = limits or LayerLimits()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="nydus")
        self._native = NativeBuilder(pool, self._limits, workers=workers)
        self._referring = ReferringBuilder(self._limits)
        self._builder_digests: dict[tuple[str, int, int], str] = {}

    async def check_health(self, option: DriverOptions | None = None) -> None:
        if option is not None:
            await self._builder(NydusOptions.of(option)).version()

    def fingerprint(self, option: DriverOptions) -> str:
        chosen = NydusOptions.of(option)
        return _hash(
            self.version,
            self.layer_fingerprint(chosen),
            chosen.multi_platform,
            chosen.with_referrer,
            chosen.prefetch_patterns,
            chosen.share_chunks,
        )

    def layer_fingerprint(self, option: NydusOptions) -> str:
        """Equal for options that give equal blobs; the layer cache's key beside the source layer."""
        return _hash(
            self.type,
            _LAYER_VERSION,
            self._builder_identity(option.builder_path),
            option.compressor,
            option.compression_level,
            option.digester,
            option.chunk_size,
            *(["oci_ref"] if option.oci_ref else []),
        )

    def _builder_identity(self, path: str | None) -> list[str]:
        """What makes the blobs: the libraries' versions, or the external binary's digest."""
        if path is None:
            return ["native", *library_versions()]
        try:
            with Path(path).open("rb") as binary:
                state = os.fstat(binary.fileno())
                key = (path, state.st_size, state.st_mtime_ns)
                if key not in self._builder_digests:
                    self._builder_digests[key] = hashlib.file_digest(binary, "sha256").hexdigest()
        except OSError:
            return ["external"]  # check_health says what is wrong with it
        return ["external", self._builder_digests[key]]

    async def check(self, store: ImageStore, reference: Reference, original: Original | None) -> CheckReport:
        return await check_image(store, reference, original=original, limits=self._limits)

    def recognises(self, manifest: ImageManifest) -> bool:
        return is_nydus(manifest)

    async def convert(self, source: Source, content: Content, option: DriverOptions) -> Result:
        chosen = NydusOptions.of(option)
        builder = self._builder(chosen)
        cache = None
        if chosen.build_cache_tag:
            cache = BuildCache(content, chosen.build_cache_tag, chosen.build_cache_version, chosen.build_cache_size)
            await cache.load()
        conversion = Conversion(
            source,
            content,
            chosen,
            builder=builder,
            layer_fingerprint=self.layer_fingerprint(chosen),
            marks={
                ANNOTATION_DRIVER_NAME: self.type,
                ANNOTATION_DRIVER_VERSION: self.version,
                ANNOTATION_SOURCE_DIGEST: str(source.manifest.digest),
                ANNOTATION_FINGERPRINT: self.fingerprint(chosen),
            },
            cache=cache,
        )
        result = await conversion.run()
        if cache is not None:
            await cache.save()
        return result

    def _builder(self, option: NydusOptions) -> Builder:
        if option.oci_ref:
            return self._referring
        return ExternalBuilder(option, self._limits) if option.builder_path else self._native


def _hash(*values: object) -> str:
    return hashlib.sha256(orjson.dumps(values)).hexdigest()
