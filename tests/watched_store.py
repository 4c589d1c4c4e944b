"""A store in memory that counts what it is asked, and lets a test step in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from drivers.testing.content import MemoryWriter, Repository
from drivers.testing.store import MemoryStore
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference


class WatchedStore(MemoryStore):
    """
    Args:
        before: called with each operation's name and reference.
        mounts: whether this registry mounts blobs.
    """

    def __init__(
        self, *, before: Callable[[str, Reference], None] = lambda _operation, _reference: None, mounts: bool = True
    ) -> None:
        super().__init__()
        self.before = before
        self.mounts = mounts
        self.calls: Counter[str] = Counter()
        self.open_uploads = 0

    def enter(self, operation: str, reference: Reference) -> Repository:
        self.calls[operation] += 1
        self.before(operation, reference)
        return super().enter(operation, reference)

    async def put_manifest(self, reference: Reference, manifest: ImageManifest | Index) -> Descriptor:
        """As a registry does it, it takes none that names what is not there."""
        there = self.repository(reference)
        if isinstance(manifest, ImageManifest):
            missing = {blob.digest for blob in (manifest.config, *manifest.layers)} - there.blobs.keys()
        else:
            missing = {child.digest for child in manifest.manifests} - there.manifests.keys()
        assert not missing, f"{missing} of {reference} was not pushed"
        return await super().put_manifest(reference, manifest)

    async def mount_blob(self, repository: Reference, digest: Digest, source: Reference) -> bool:
        if self.mounts:
            return await super().mount_blob(repository, digest, source)
        self.enter("mount_blob", repository)
        return False

    @asynccontextmanager
    async def upload(self, repository: Reference) -> AsyncIterator[MemoryWriter]:
        self.open_uploads += 1
        try:
            async with super().upload(repository) as writer:
                yield writer
        finally:
            self.open_uploads -= 1
