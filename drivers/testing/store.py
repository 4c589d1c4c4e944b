"""An ``ImageStore`` in memory, over the repositories of ``drivers.testing.content``."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from drivers.testing.content import PIECE, MemoryWriter, Repository
from shared.errors import CorruptLayerError, PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference


class MemoryStore:
    """Repositories by name (``registry/repository``); one that is not there yet is made."""

    def __init__(self, repositories: Mapping[str, Repository] | None = None) -> None:
        self.repositories: dict[str, Repository] = defaultdict(Repository, repositories or {})

    def enter(self, operation: str, reference: Reference) -> Repository:
        """Every call comes by here first: the place to count it, or to let something happen just before."""
        return self.repository(reference)

    def repository(self, reference: Reference) -> Repository:
        return self.repositories[f"{reference.registry}/{reference.repository}"]

    async def resolve(self, reference: Reference) -> Descriptor | None:
        found = _find(self.enter("resolve", reference), reference)
        return None if found is None else found.descriptor

    async def manifest(self, reference: Reference) -> ImageManifest | Index:
        found = _find(self.enter("manifest", reference), reference)
        if found is None:
            raise PermanentError(f"there is no {reference}", code="manifest_unknown", registry=reference.registry)
        return found

    async def put_manifest(self, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
        repository = self.enter("put_manifest", reference)
        descriptor = repository.add_manifest(manifest)
        if reference.tag:
            repository.tags[reference.tag] = descriptor.digest
        return descriptor

    @asynccontextmanager
    async def open_blob(self, repository: Reference, blob: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        data = self.enter("open_blob", repository).blobs.get(blob.digest)
        if data is None:
            raise PermanentError(f"there is no {blob.digest}", code="blob_unknown")
        yield _stream(data, blob.digest)

    async def read_range(self, repository: Reference, digest: Digest, start: int, length: int) -> bytes:
        return self.enter("read_range", repository).blobs[digest][start : start + length]

    async def has_blob(self, repository: Reference, digest: Digest, size: int | None = None) -> bool:
        data = self.enter("has_blob", repository).blobs.get(digest)
        return data is not None and size in {None, len(data)}

    async def mount_blob(self, repository: Reference, digest: Digest, source: Reference) -> bool:
        target = self.enter("mount_blob", repository)
        data = self.repository(source).blobs.get(digest)
        if data is None:
            return False
        target.blobs[digest] = data
        return True

    @asynccontextmanager
    async def upload(self, repository: Reference) -> AsyncIterator[MemoryWriter]:
        yield MemoryWriter(self.enter("upload", repository))


def _find(repository: Repository, reference: Reference) -> ImageManifest | Index | None:
    digest = reference.digest or repository.tags.get(reference.tag or "")
    return repository.manifests.get(digest) if digest else None


async def _stream(data: bytes, digest: Digest) -> AsyncIterator[bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]
    if hashlib.sha256(data).hexdigest() != digest.hex:
        raise CorruptLayerError("digest mismatch")
