"""Converted layers, remembered in the registry itself.

A record is a small OCI artifact manifest in the cache repository, tagged by a hash of source layer digest and driver
fingerprint. Its only layer is the converted layer, so the registry's own garbage collection keeps the blob as long as the record
stands. Found with one request, written with one, never read-modify-written. Nothing here fails a conversion.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging

from drivers.api import ConvertedLayer
from shared.errors import IcsError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, encode_manifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

DEFAULT_REPOSITORY = "{project}/ics-cache"
"""Beside the target; the planner skips what is pushed there."""
ARTIFACT_TYPE = "application/vnd.goharbor.ics.layer.v1+json"
_SOURCE = "io.goharbor.ics.layer.source"
_FINGERPRINT = "io.goharbor.ics.layer.fingerprint"
_DIFF_ID = "io.goharbor.ics.layer.diff-id"
_EMPTY = b"{}"
_log = logging.getLogger(__name__)


def record_tag(source: Digest, fingerprint: str) -> str:
    """64 hex digits."""
    return hashlib.sha256(f"{source}\n{fingerprint}".encode()).hexdigest()


class LayerCache:
    """The records of one cache repository.

    Args:
        store: where the repository is.
        repository: registry and name; tag and digest are ignored.
        copies: held while a layer is copied, shared by all caches of the process: a copy has an upload's buffers, and looks
            are not bounded by the memory that layers under conversion share.
    """

    def __init__(self, store: ImageStore, repository: Reference, copies: asyncio.Semaphore) -> None:
        self._store = store
        self._repository = repository
        self._copies = copies

    def record(self, source: Descriptor, fingerprint: str) -> Reference:
        """Where the record of a layer is, or would be."""
        return self._repository.with_tag(record_tag(source.digest, fingerprint))

    async def find(self, source: Descriptor, fingerprint: str, target: Reference) -> ConvertedLayer | None:
        """A layer converted before, made available in ``target``; None if there is no usable record."""
        try:
            record = await self._store.manifest(self.record(source, fingerprint))
            layer = _parse(record, source.digest, fingerprint)
            if layer is None or not await self._provide(layer.descriptor, target):
                return None
        except IcsError as error:
            if error.code not in {"manifest_unknown", "name_unknown"}:
                _log.info("layer cache: no use of the record of %s: %s", source.digest, error.code)
            return None
        return layer

    async def remember(self, source: Descriptor, fingerprint: str, layer: ConvertedLayer, target: Reference) -> None:
        """Record that ``source`` became ``layer``, whose blob is in ``target``."""
        try:
            if not await self._store.mount_blob(self._repository, layer.descriptor.digest, target):
                return  # not worth a second upload
            empty = Descriptor(media_types.OCI_EMPTY, Digest.of(_EMPTY), len(_EMPTY))
            if not await self._store.has_blob(self._repository, empty.digest):
                async with self._store.upload(self._repository) as upload:
                    await upload.write(_EMPTY)
                    await upload.commit(empty.media_type)
            annotations = {_SOURCE: str(source.digest), _FINGERPRINT: fingerprint, _DIFF_ID: str(layer.diff_id)}
            record = encode_manifest(
                {
                    "schemaVersion": 2,
                    "mediaType": media_types.OCI_MANIFEST,
                    "artifactType": ARTIFACT_TYPE,
                    "config": empty.to_json(),
                    "layers": [layer.descriptor.to_json()],
                    "annotations": annotations,
                }
            )
            await self._store.put_manifest(self.record(source, fingerprint), record)
        except IcsError as error:
            _log.info("layer cache: %s is not recorded: %s", source.digest, error.code)

    async def _provide(self, blob: Descriptor, target: Reference) -> bool:
        """Mounted; where the registry does not mount, there already or copied, which is still cheaper than converting.

        A registry does not compare a record's size with its blob's, and an image with a wrong size cannot be pulled.
        """
        store = self._store
        if not await store.has_blob(self._repository, blob.digest, blob.size):
            return False
        if await store.mount_blob(target, blob.digest, self._repository) or await store.has_blob(target, blob.digest):
            return True
        async with self._copies, store.open_blob(self._repository, blob) as stream, store.upload(target) as upload:
            async for piece in stream:
                await upload.write(piece)
            await upload.commit(blob.media_type)
        return True


def _parse(record: object, source: Digest, fingerprint: str) -> ConvertedLayer | None:
    """The record's content, if it is one and is of this layer and fingerprint."""
    if not isinstance(record, ImageManifest) or record.artifact_type != ARTIFACT_TYPE or len(record.layers) != 1:
        return None
    marks = record.annotations
    if marks.get(_SOURCE) != source or marks.get(_FINGERPRINT) != fingerprint or _DIFF_ID not in marks:
        return None
    return ConvertedLayer(record.layers[0], Digest(marks[_DIFF_ID]))
