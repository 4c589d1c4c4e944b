"""One platform's image: convert its layers, merge their bootstraps, push bootstrap layer, config and manifest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drivers.api import Content
from drivers.image import Config
from drivers.nydus import media
from drivers.nydus.bootstrap_layer import BootstrapLayer, build_bootstrap_layer
from drivers.nydus.consistency import check_blobs, check_manifest
from drivers.nydus.layer_source import Layer
from drivers.nydus.manifests import encode_config, image_manifest
from drivers.nydus.merge import merge
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.decode import check_bootstrap
from drivers.nydus.rafs_v6.encode import encode_bootstrap
from shared.errors import UnsupportedError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest


@dataclass(frozen=True, slots=True)
class BlobLayer:
    """A converted layer in the target repository."""

    descriptor: Descriptor
    content: Layer
    reused: bool


@dataclass(frozen=True, slots=True)
class NydusImage:
    manifest: ImageManifest
    """Not pushed yet."""
    layers_total: int
    layers_reused: int
    source_size: int
    target_size: int


def check_layers(manifest: ImageManifest) -> None:
    """Raises UnsupportedError for layers that are no tar of files."""
    for layer in manifest.layers:
        if media_types.is_foreign_layer(layer.media_type):
            raise UnsupportedError("a layer that must not be redistributed cannot become a Nydus blob")
        if layer.media_type not in media_types.LAYERS:
            raise UnsupportedError(f"a layer of media type {layer.media_type[:200]!r} cannot become a Nydus blob")


def is_nydus(manifest: ImageManifest) -> bool:
    """By the marks that snapshotters go by."""
    return any(
        layer.media_type == media.BLOB_LAYER or media.NYDUS_BOOTSTRAP in layer.annotations for layer in manifest.layers
    )


def merged_bootstrap(layers: Sequence[Layer], parameters: Parameters) -> bytes:
    """The image's bootstrap from its layers', lowest first. Equal layers share one blob. Blocking."""
    merged = merge(
        [layer.bootstrap for layer in layers],
        chunk_size=parameters.chunk_size,
        compressor=parameters.compressor,
        digester=parameters.digester,
        prefetch_patterns=parameters.prefetch_patterns,
        share_chunks=parameters.share_chunks,
    )
    return encode_bootstrap(merged)


async def validated_layer(bootstrap: bytes, layers: Sequence[Layer]) -> BootstrapLayer:
    """Put a merged bootstrap into its layer, and make the checks that a reader would make.

    Raises:
        InvalidNydusError: it breaks the format's rules, or disagrees with the layers' own tables (a defect; nothing is
            pushed then).
    """

    def validate() -> None:
        check_blobs(*check_bootstrap(bootstrap), layers)

    # A reference's is large, and readers fetch it by its digest when they first read from the blob.
    metas = {layer.blob_id: layer.meta for layer in layers if layer.meta and layer.reference is None}
    packing = asyncio.create_task(asyncio.to_thread(build_bootstrap_layer, bootstrap, metas))
    try:
        await asyncio.to_thread(validate)
    finally:
        packed = await packing
    return packed


async def push_image(
    content: Content,
    source: ImageManifest,
    config: Config,
    layers: Sequence[BlobLayer],
    bootstrap: BootstrapLayer,
    *,
    oci: bool,
    annotations: Mapping[str, str],
    subject: Descriptor | None,
    config_media_type: str | None = None,
) -> NydusImage:
    """Push bootstrap layer and config; build the manifest."""
    last = await content.push(
        bootstrap.data,
        media_types.OCI_LAYER_GZIP if oci else media_types.DOCKER_LAYER_GZIP,
        {media.NYDUS_BOOTSTRAP: "true", media.NYDUS_FS_VERSION: "6"},
    )
    diff_ids = [*(layer.descriptor.digest for layer in layers), bootstrap.diff_id]
    kind = config_media_type or (media_types.OCI_CONFIG if oci else media_types.DOCKER_CONFIG)
    pushed_config = await content.push(encode_config(config, diff_ids), kind)
    descriptors = [*(layer.descriptor for layer in layers), last]
    manifest = image_manifest(
        oci=oci, config=pushed_config, layers=descriptors, annotations=annotations, subject=subject
    )
    check_manifest(manifest)
    return NydusImage(
        manifest=manifest,
        layers_total=len(layers),
        layers_reused=sum(layer.reused for layer in layers),
        source_size=sum(layer.size for layer in source.layers),
        target_size=sum(layer.size for layer in descriptors),
    )
