"""OCI documents of a Nydus image: config and manifest of one platform, and the index that keeps the originals beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from drivers.image import Config
from drivers.nydus import media
from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest

EMPTY_LAYER: Final = bytes.fromhex("1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000")
"""A gzipped empty tar, as the reference converter writes it."""
EMPTY_LAYER_DIFF_ID: Final = Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")
_CREATED_BY: Final = "Nydus Converter"


def encode_config(config: Config, diff_ids: Sequence[Digest], *, prepend: bool = False) -> bytes:
    """The source's config with other layers; every key that is not about layers stays.

    Args:
        config: the source's.
        diff_ids: of all layers of the new image.
        prepend: the added layer is the empty one in front instead of the bootstrap at the end.
    """
    history = config.data.get("history")
    if isinstance(history, list) and history:
        comment = "Nydus Empty Layer" if prepend else "Nydus Bootstrap Layer"
        item = {"created_by": _CREATED_BY, "comment": comment}
        added = [item, *history] if prepend else [*history, item]
        config = replace(config, data={**config.data, "history": added})
    return config.with_diff_ids(diff_ids)


def image_manifest(
    *,
    oci: bool,
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str],
    subject: Descriptor | None = None,
) -> ImageManifest:
    """Of one platform; ``subject`` is the source's manifest (OCI only)."""
    data: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST if oci else media_types.DOCKER_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if subject is not None:
        data["subject"] = Descriptor(subject.media_type, subject.digest, subject.size).to_json()
    if annotations:
        data["annotations"] = dict(annotations)
    manifest = encode_manifest(data)
    if not isinstance(manifest, ImageManifest):
        raise PermanentError("not an image manifest", code="invalid_manifest")
    return manifest


def original_manifest(source: ImageManifest, config: Descriptor, empty: Descriptor) -> ImageManifest:
    """The original in OCI media types with an empty layer in front, so that no layer chain is shared with the Nydus image."""
    data = dict(source.data)
    data["mediaType"] = media_types.OCI_MANIFEST
    data["config"] = config.to_json()
    data["layers"] = [
        empty.to_json(),
        *(replace(layer, media_type=media_types.to_oci(layer.media_type)).to_json() for layer in source.layers),
    ]
    data["annotations"] = {**source.annotations, media.NYDUS_SOURCE_DIGEST: str(source.digest)}
    manifest = encode_manifest(data)
    if not isinstance(manifest, ImageManifest):
        raise PermanentError("not an image manifest", code="invalid_manifest")
    return manifest


def image_index(manifests: Sequence[Descriptor], *, oci: bool, annotations: Mapping[str, str]) -> Index:
    data: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX if oci else media_types.DOCKER_MANIFEST_LIST,
        "manifests": [descriptor.to_json() for descriptor in manifests],
    }
    if annotations:
        data["annotations"] = dict(annotations)
    index = encode_manifest(data)
    if not isinstance(index, Index):
        raise PermanentError("not an index", code="invalid_manifest")
    return index
