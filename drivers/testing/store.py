"""``ImageStore`` over the dictionaries of ``drivers.testing.content``, to read images back from."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from drivers.testing.content import PIECE, MemoryWriter, Repository
from shared.errors import CorruptLayerError, PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry.api import Upload


class MemoryStore:
    """Repositories by name (``registry/repository``)."""

    def __init__(self, repositories: Mapping[str, Repository]) -> None:
        self._repositories = repositories

    def _repository(self, reference: Reference) -> Repository:
        return self._repositories[f"{reference.registry}/{reference.repository}"]

    async def resolve(self, reference: Reference) -> Descriptor | None:
        digest = reference.digest or self._repository(reference).tags.get(reference.tag or "")
        found = self._repository(reference).manifests.get(digest) if digest else None
        return None if found is None else found.descriptor

    async def manifest(self, reference: Reference) -> ImageManifest | Index:
        descriptor = await self.resolve(reference)
        if descriptor is None:
            raise PermanentError("no such manifest", code="manifest_unknown")
        return self._repository(reference).manifests[descriptor.digest]

    async def put_manifest(self, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
        descriptor = self._repository(reference).add_manifest(manifest)
        if reference.tag:
            self._repository(reference).tags[reference.tag] = descriptor.digest
        return descriptor

    @asynccontextmanager
    async def open_blob(self, repository: Reference, blob: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._stream(self._repository(repository).blobs[blob.digest], blob.digest)

    async def _stream(self, data: bytes, digest: Digest) -> AsyncIterator[bytes]:
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
        if hashlib.sha256(data).hexdigest() != digest.hex:
            raise CorruptLayerError("digest mismatch")

    async def read_range(self, repository: Reference, digest: Digest, start: int, length: int) -> bytes:
        return self._repository(repository).blobs[digest][start : start + length]

    async def has_blob(self, repository: Reference, digest: Digest, size: int | None = None) -> bool:
        data = self._repository(repository).blobs.get(digest)
        return data is not None and size in {None, len(data)}

    async def mount_blob(self, repository: Reference, digest: Digest, source: Reference) -> bool:
        self._repository(repository).blobs[digest] = self._repository(source).blobs[digest]
        return True

    def upload(self, repository: Reference) -> AbstractAsyncContextManager[Upload]:
        return self._upload(self._repository(repository))

    @asynccontextmanager
    async def _upload(self, repository: Repository) -> AsyncIterator[MemoryWriter]:
        yield MemoryWriter(repository)
