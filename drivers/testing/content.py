"""``Content`` over dictionaries: a source repository to read, a target repository to fill, with a layer cache."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from drivers.api import ConvertedLayer, Progress, StageRecord
from shared.errors import CorruptLayerError, LimitExceededError, PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, parse_manifest
from shared.oci.reference import Reference, parse_reference

PIECE = 64 * 1024


class NoProgress:
    def layer(self, digest: Digest, done: int, total: int) -> None:
        pass

    def stage(self, name: str, subject: str = "") -> AbstractAsyncContextManager[StageRecord]:
        return nullcontext(StageRecord())


@dataclass
class Repository:
    blobs: dict[Digest, bytes] = field(default_factory=dict, repr=False)
    manifests: dict[Digest, ImageManifest | Index] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)

    def add(self, data: bytes, media_type: str) -> Descriptor:
        digest = Digest.of(data)
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data))

    def add_manifest(self, manifest: ImageManifest | Index) -> Descriptor:
        self.manifests[manifest.digest] = manifest
        return manifest.descriptor


class MemoryWriter:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._parts: list[bytes] = []
        self.committed = False

    async def write(self, data: bytes | memoryview) -> None:
        await asyncio.sleep(0)
        self._parts.append(bytes(data))

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        self.committed = True
        descriptor = self._repository.add(b"".join(self._parts), media_type)
        return Descriptor(media_type, descriptor.digest, descriptor.size, dict(annotations or {}))


class MemoryContent:
    def __init__(self, source: Repository, target: Repository | None = None, *, same_repository: bool = False) -> None:
        self.source: Reference = parse_reference("registry.test/source:1")
        self.target: Reference = self.source if same_repository else parse_reference("registry.test/target:1")
        self.progress: Progress = NoProgress()
        self.source_repository = source
        self.target_repository = target or Repository()
        self.cache: dict[tuple[Digest, str], ConvertedLayer] = {}
        self.opened: list[Digest] = []
        self.abandoned = 0
        self._locks: dict[tuple[Digest, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def manifest(self, descriptor: Descriptor) -> ImageManifest | Index:
        return self.source_repository.manifests[descriptor.digest]

    async def read(self, descriptor: Descriptor, *, limit: int) -> bytes:
        data = self.source_repository.blobs[descriptor.digest]
        if len(data) > limit:
            raise LimitExceededError("too large", limit=str(limit))
        return data

    @asynccontextmanager
    async def open(self, descriptor: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        self.opened.append(descriptor.digest)
        yield self._stream(descriptor)

    async def _stream(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        data = self.source_repository.blobs[descriptor.digest]
        for start in range(0, len(data), PIECE):
            await asyncio.sleep(0)
            yield data[start : start + PIECE]
        if hashlib.sha256(data).hexdigest() != descriptor.digest.hex:
            raise CorruptLayerError("digest mismatch")

    @asynccontextmanager
    async def create(self) -> AsyncIterator[MemoryWriter]:
        writer = MemoryWriter(self.target_repository)
        try:
            yield writer
        finally:
            self.abandoned += not writer.committed

    async def push(self, data: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        descriptor = self.target_repository.add(data, media_type)
        return Descriptor(media_type, descriptor.digest, descriptor.size, dict(annotations or {}))

    async def copy(self, descriptor: Descriptor) -> None:
        self.target_repository.blobs[descriptor.digest] = self.source_repository.blobs[descriptor.digest]

    async def push_manifest(self, manifest: ImageManifest | Index) -> Descriptor:
        return self.target_repository.add_manifest(manifest)

    async def read_back(self, descriptor: Descriptor, start: int, length: int) -> bytes:
        data = self.target_repository.blobs[descriptor.digest][start : start + length]
        if len(data) != length:
            raise PermanentError("range outside the blob", code="range_refused")
        return data

    async def target_manifest(self, tag: str) -> ImageManifest | Index | None:
        digest = self.target_repository.tags.get(tag)
        return None if digest is None else self.target_repository.manifests[digest]

    async def put_target_manifest(self, tag: str, manifest: ImageManifest | Index) -> Descriptor:
        descriptor = self.target_repository.add_manifest(parse_manifest(manifest.raw, manifest.media_type))
        self.target_repository.tags[tag] = descriptor.digest
        return descriptor

    async def cached_layer(self, source: Descriptor, fingerprint: str) -> ConvertedLayer | None:
        return self.cache.get((source.digest, fingerprint))

    async def remember_layer(self, source: Descriptor, fingerprint: str, layer: ConvertedLayer) -> None:
        self.cache[source.digest, fingerprint] = layer

    @asynccontextmanager
    async def layer_lock(self, source: Descriptor, fingerprint: str) -> AsyncIterator[None]:
        async with self._locks[source.digest, fingerprint]:
            yield

    def layer_claim(self, source: Descriptor, fingerprint: str) -> AbstractAsyncContextManager[bool]:
        return nullcontext(True)

    async def layer_elsewhere(self, source: Descriptor, fingerprint: str) -> None:
        raise AssertionError("there is no other consumer")

    @asynccontextmanager
    async def layer_memory(self) -> AsyncIterator[None]:
        yield
