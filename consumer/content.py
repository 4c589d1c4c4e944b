"""What a driver sees of the world: the source image to read, the target repository to write to."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from consumer.budget import LAYER_SHARE, MemoryBudget
from consumer.claims import LayerClaims
from consumer.keyed_locks import KeyedLocks
from consumer.layer_cache import LayerCache
from drivers.api import BlobWriter, ConvertedLayer, Progress
from shared.errors import LimitExceededError, PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry.api import ImageStore
from shared.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)


async def manifest_or_none(store: ImageStore, reference: Reference) -> ImageManifest | Index | None:
    """In one request: between two, somebody may delete it."""
    try:
        return await store.manifest(reference)
    except PermanentError as error:
        if error.code in {"manifest_unknown", "name_unknown"}:
            return None
        raise


class StoreContent:
    """``drivers.api.Content`` over image stores.

    Args:
        source_store: where ``source`` is.
        target_store: where ``target`` goes; the same object when both are registries.
        cache: None when nothing is remembered.
        locks: shared by all conversions of the process.
        budget: shared by all conversions of the process.
        claims: shared with other consumers; None where there are none. They are of use with a cache only.
    """

    def __init__(
        self,
        source: Reference,
        target: Reference,
        *,
        source_store: ImageStore,
        target_store: ImageStore,
        progress: Progress,
        metrics: Metrics,
        cache: LayerCache | None,
        locks: KeyedLocks,
        budget: MemoryBudget,
        claims: LayerClaims | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.progress = progress
        self._from = source_store
        self._to = target_store
        self._metrics = metrics
        self._cache = cache
        self._locks = locks
        self._budget = budget
        self._claims = claims

    async def manifest(self, descriptor: Descriptor) -> ImageManifest | Index:
        return await self._from.manifest(self.source.with_digest(descriptor.digest))

    async def read(self, descriptor: Descriptor, *, limit: int) -> bytes:
        if descriptor.size > limit:
            raise LimitExceededError(
                f"blob {descriptor.digest} is {descriptor.size} bytes, more than the {limit} allowed for its kind",
                limit="small_blob",
            )
        async with self._from.open_blob(self.source, descriptor) as stream:
            return b"".join([piece async for piece in stream])

    @asynccontextmanager
    async def open(self, descriptor: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self.progress.stage("pull", descriptor.digest) as stage:
            async with self._from.open_blob(self.source, descriptor) as stream:
                yield self._counted(stream, descriptor)
            stage.bytes = descriptor.size

    async def _counted(self, stream: AsyncIterator[bytes], descriptor: Descriptor) -> AsyncIterator[bytes]:
        done = 0
        async for piece in stream:
            done += len(piece)
            self.progress.layer(descriptor.digest, done, descriptor.size)
            yield piece

    @asynccontextmanager
    async def create(self) -> AsyncIterator[BlobWriter]:
        async with self.progress.stage("push") as stage, self._to.upload(self.target) as upload:
            writer = _CountedWriter(upload)
            try:
                yield writer
            finally:
                stage.bytes = writer.written

    async def push(self, data: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        digest = Digest.of(data)
        if await self._to.has_blob(self.target, digest):
            return Descriptor(media_type, digest, len(data), dict(annotations or {}))
        async with self._to.upload(self.target) as upload:
            await upload.write(data)
            return await upload.commit(media_type, annotations)

    async def copy(self, descriptor: Descriptor) -> None:
        if await self._to.has_blob(self.target, descriptor.digest):
            return
        if self._from is self._to and await self._to.mount_blob(self.target, descriptor.digest, self.source):
            return
        async with self.open(descriptor) as stream, self.create() as writer:
            async for piece in stream:
                await writer.write(piece)
            await writer.commit(descriptor.media_type)

    async def push_manifest(self, manifest: ImageManifest | Index) -> Descriptor:
        async with self.progress.stage("manifest", manifest.digest) as stage:
            stage.bytes = len(manifest.raw)
            by_digest = Reference(self.target.registry, self.target.repository, None, manifest.digest)
            return await self._to.put_manifest(by_digest, manifest)

    async def read_back(self, descriptor: Descriptor, start: int, length: int) -> bytes:
        return await self._to.read_range(self.target, descriptor.digest, start, length)

    async def target_manifest(self, tag: str) -> ImageManifest | Index | None:
        return await manifest_or_none(self._to, self.target.with_tag(tag))

    async def put_target_manifest(self, tag: str, manifest: ImageManifest | Index) -> Descriptor:
        return await self._to.put_manifest(self.target.with_tag(tag), manifest)

    async def cached_layer(self, source: Descriptor, fingerprint: str) -> ConvertedLayer | None:
        if self._cache is None:
            return None
        found = await self._cache.find(source, fingerprint, self.target)
        self._metrics.cache(hit=found is not None)
        return found

    async def remember_layer(self, source: Descriptor, fingerprint: str, layer: ConvertedLayer) -> None:
        if self._cache is not None:
            await self._cache.remember(source, fingerprint, layer, self.target)

    def layer_lock(self, source: Descriptor, fingerprint: str) -> AbstractAsyncContextManager[None]:
        return self._locks.hold((source.digest, fingerprint))

    def layer_claim(self, source: Descriptor, fingerprint: str) -> AbstractAsyncContextManager[bool]:
        if self._cache is None or self._claims is None:
            return nullcontext(True)
        return self._claims.hold(self._cache.record(source, fingerprint))

    async def layer_elsewhere(self, source: Descriptor, fingerprint: str) -> None:
        if self._cache is not None and self._claims is not None:
            record = self._cache.record(source, fingerprint)
            _log.info("another consumer converts layer %s, waiting for its record %s", source.digest, record)
            async with self.progress.stage("wait", source.digest):
                await self._claims.wait(record)

    @asynccontextmanager
    async def layer_memory(self) -> AsyncIterator[None]:
        try:
            async with self._budget.share(LAYER_SHARE):
                self._metrics.buffers(self._budget.used, self._budget.limit)
                yield
        finally:
            self._metrics.buffers(self._budget.used, self._budget.limit)


class _CountedWriter:
    """Knows how much went through, for the stage."""

    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer
        self.written = 0

    async def write(self, data: bytes | memoryview) -> None:
        self.written += len(data)
        await self._writer.write(data)

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        return await self._writer.commit(media_type, annotations)
