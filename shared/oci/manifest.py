"""Image manifests and indexes: the raw bytes beside what they say.

What is hashed is what came, never a re-serialisation: ``raw`` stays, ``data`` is its parsed JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest

MAXIMUM_MANIFEST_SIZE = 4 * 1024 * 1024
"""Bytes; what registries are asked to accept (distribution spec, section Pushing Manifests)."""
SCHEMA_1_REFUSED = (
    "the manifest is of Docker's schema 1, which has no config to convert; push the image again with a client of today, or copy it"
    " onto itself with skopeo copy --format v2s2"
)


@dataclass(frozen=True)
class Manifest:
    """One manifest of any kind. Use :func:`parse_manifest` to get an :class:`ImageManifest` or an :class:`Index`."""

    raw: bytes
    media_type: str
    digest: Digest
    data: Mapping[str, Any]

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @cached_property
    def annotations(self) -> Mapping[str, str]:
        value = self.data.get("annotations") or {}
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}

    @cached_property
    def subject(self) -> Descriptor | None:
        value = self.data.get("subject")
        return None if value is None else Descriptor.from_json(value)

    @property
    def artifact_type(self) -> str | None:
        value = self.data.get("artifactType")
        return value if isinstance(value, str) else None


class ImageManifest(Manifest):
    """``config`` plus ``layers`` (OCI image spec, manifest.md; Docker schema 2)."""

    @cached_property
    def config(self) -> Descriptor:
        return Descriptor.from_json(self.data.get("config"))

    @cached_property
    def layers(self) -> tuple[Descriptor, ...]:
        return _descriptors(self.data, "layers")


class Index(Manifest):
    """``manifests`` (OCI image spec, image-index.md; Docker manifest list)."""

    @cached_property
    def manifests(self) -> tuple[Descriptor, ...]:
        return _descriptors(self.data, "manifests")


def parse_manifest(raw: bytes, media_type: str | None = None, digest: Digest | None = None) -> ImageManifest | Index:
    """Parse a manifest; ``media_type`` (of the HTTP answer or the descriptor) wins over the body's own.

    Raises:
        PermanentError: ``invalid_manifest`` (not JSON, wrong shape), ``unsupported_media_type`` (schema 1, unknown).
    """
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise PermanentError(f"the manifest is not JSON: {error}", code="invalid_manifest") from error
    if not isinstance(data, dict):
        raise PermanentError("the manifest is not a JSON object", code="invalid_manifest")
    kind = (media_type or "").partition(";")[0].strip()
    if kind not in media_types.MANIFESTS:
        kind = str(data.get("mediaType") or kind)
    if not kind or kind == "application/json":
        kind = media_types.OCI_INDEX if "manifests" in data else media_types.OCI_MANIFEST
    if kind in media_types.SCHEMA_1 or data.get("schemaVersion") == 1:
        raise PermanentError(SCHEMA_1_REFUSED, code="unsupported_media_type")
    digest = digest or Digest.of(raw)
    _refuse_ambiguity(data, kind)
    if kind in media_types.IMAGE_MANIFESTS:
        image = ImageManifest(raw, kind, digest, data)
        _ = image.config, image.layers, image.subject
        return image
    if kind in media_types.INDEXES:
        index = Index(raw, kind, digest, data)
        _ = index.manifests, index.subject
        return index
    # What is no media type at all is not repeated: it may be anything, a secret that the registry was sent included.
    told = kind if media_types.is_well_formed(kind) else "that is none"
    raise PermanentError(f"unsupported manifest media type: {told}", code="unsupported_media_type")


def _refuse_ambiguity(data: Mapping[str, Any], kind: str) -> None:
    """A document that can be read as another kind than the one it is served as is refused (CVE-2021-41190)."""
    own = data.get("mediaType")
    if isinstance(own, str) and own in media_types.MANIFESTS and own != kind:
        raise PermanentError(f"the manifest is served as {kind} and calls itself {own}", code="invalid_manifest")
    if "manifests" in data and ("layers" in data or "config" in data):
        raise PermanentError("the manifest is an image's and an index at once", code="invalid_manifest")


def encode_manifest(data: Mapping[str, Any]) -> ImageManifest | Index:
    """Serialise deterministically (insertion order, compact) and parse back; ``data`` names its ``mediaType``."""
    return parse_manifest(orjson.dumps(data), str(data["mediaType"]))


def _descriptors(data: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    value = data.get(key, "")
    if value is None:  # Go's encoder writes an empty list so
        return ()
    if not isinstance(value, list):
        raise PermanentError(f"the manifest has no list of {key}", code="invalid_manifest")
    return tuple(Descriptor.from_json(item) for item in value)
