"""``build_cache_tag``: converted layers recorded in a manifest under a tag of the target repository.

The record keeps the blobs alive in the registry, for every consumer and every later conversion. It is an artifact manifest
whose layers are the Nydus blobs, newest first, each annotated with its source layer. Losing a race for the tag only costs
a record.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from drivers.api import Content
from drivers.nydus import media
from shared.errors import IcsError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, encode_manifest

_log = logging.getLogger(__name__)

CACHE_TYPE: Final = "application/vnd.goharbor.ics.nydus.cache.v1+json"
"""Of the record: an artifact, so that nobody takes it for an image to run."""
CACHE_VERSION: Final = "io.goharbor.ics.nydus.cache.version"
CACHE_FINGERPRINT: Final = "io.goharbor.ics.nydus.cache.fingerprint"
CACHE_SOURCE: Final = "io.goharbor.ics.nydus.cache.source-layer"


class BuildCache:
    """One conversion's view: read once, written back once if something is new. Never fails a conversion."""

    def __init__(self, content: Content, tag: str, version: str, capacity: int) -> None:
        self._content = content
        self._tag = tag
        self._version = version
        self._capacity = capacity
        self._known: dict[tuple[str, str], Descriptor] = {}
        self._fresh: dict[tuple[str, str], Descriptor] = {}
        self._taken = False

    async def load(self) -> None:
        """A record of another version counts as none."""
        try:
            manifest = await self._content.target_manifest(self._tag)
        except IcsError as error:
            self._taken = True  # nobody knows by what
            _log.warning("the build cache cannot be read", extra={"tag": self._tag, "error": error.code})
            return
        if manifest is not None and manifest.artifact_type != CACHE_TYPE:
            self._taken = True
            _log.warning("the build cache's tag is something else's and is left alone", extra={"tag": self._tag})
        elif isinstance(manifest, ImageManifest) and manifest.annotations.get(CACHE_VERSION) == self._version:
            self._read(manifest)

    def _read(self, manifest: ImageManifest) -> None:
        for layer in manifest.layers:
            source, fingerprint = layer.annotations.get(CACHE_SOURCE), layer.annotations.get(CACHE_FINGERPRINT)
            if source and fingerprint and layer.media_type == media.BLOB_LAYER:
                self._known.setdefault((source, fingerprint), layer)

    def lookup(self, source: Digest, fingerprint: str) -> Descriptor | None:
        """The Nydus blob of a source layer; it is in the target repository, for the record refers to it."""
        found = self._known.get((source, fingerprint))
        if found is None:
            return None
        return Descriptor(media.BLOB_LAYER, found.digest, found.size, {media.NYDUS_BLOB: "true"})

    def add(self, source: Digest, fingerprint: str, blob: Descriptor) -> None:
        annotations: Mapping[str, str] = {
            media.NYDUS_BLOB: "true",
            CACHE_SOURCE: source,
            CACHE_FINGERPRINT: fingerprint,
        }
        if (source, fingerprint) not in self._known:
            self._fresh[source, fingerprint] = Descriptor(media.BLOB_LAYER, blob.digest, blob.size, annotations)

    async def save(self) -> None:
        """Put the record with the newest layers in front, if there are new ones."""
        if not self._fresh or self._taken:
            return
        layers = [*self._fresh.values(), *self._known.values()][: self._capacity]
        try:
            config = await self._content.push(b"{}", media_types.OCI_EMPTY)
            record = {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "artifactType": CACHE_TYPE,
                "config": config.to_json(),
                "layers": [layer.to_json() for layer in layers],
                "annotations": {CACHE_VERSION: self._version},
            }
            manifest = encode_manifest(record)
            await self._content.put_target_manifest(self._tag, manifest)
        except IcsError as error:
            _log.warning("the build cache cannot be written", extra={"tag": self._tag, "error": error.code})
