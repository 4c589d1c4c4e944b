"""One conversion: the platforms of a source, their layers, and what is put together from them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from drivers.api import ANNOTATION_SOURCE_DIGEST, Content, ConvertedLayer, Result, Source
from drivers.image import MAXIMUM_CONFIG_SIZE, Config, parse_config
from drivers.nydus import media
from drivers.nydus.build_cache import BuildCache
from drivers.nydus.builder import Builder
from drivers.nydus.image import BlobLayer, NydusImage, check_layers, is_nydus, push_image
from drivers.nydus.layer_source import read_layer
from drivers.nydus.manifests import (
    EMPTY_LAYER,
    EMPTY_LAYER_DIFF_ID,
    encode_config,
    image_index,
    original_manifest,
)
from drivers.nydus.options import NydusOptions
from drivers.nydus.zran.builder import reference_marks
from drivers.once import converted_once
from drivers.selection import check_image, is_attestation, named, select, selected
from shared.errors import PermanentError, SkippedError, first_failure
from shared.oci import media_types
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.manifest import ImageManifest, Index

_log = logging.getLogger(__name__)
_LAYERS_AT_ONCE = 3
"""Per image: one that downloads, one that computes, one that uploads its last bytes."""


@dataclass(frozen=True, slots=True)
class _Original:
    manifest: ImageManifest
    platform: Platform
    config: Config


class Conversion:
    """Runs once."""

    def __init__(
        self,
        source: Source,
        content: Content,
        option: NydusOptions,
        *,
        builder: Builder,
        layer_fingerprint: str,
        marks: Mapping[str, str],
        cache: BuildCache | None,
    ) -> None:
        self._source = source
        self._content = content
        self._option = option
        self._builder = builder
        self._fingerprint = layer_fingerprint
        self._marks = marks
        self._cache = cache
        self._left_out: list[str] = []
        self._slots = asyncio.Semaphore(_LAYERS_AT_ONCE)
        self._looks = asyncio.Semaphore(_LAYERS_AT_ONCE)

    async def run(self) -> Result:
        """Raises SkippedError if there is nothing to convert."""
        originals = await self._select()
        if self._option.oci_ref and not (self._option.multi_platform or self._in_one_repository):
            _log.warning(
                "no manifest names the layers that oci_ref refers to in the target's repository: garbage collection may remove "
                "them; set multi_platform",
                extra={"target": str(self._content.target)},
            )
        builder_version = await self._builder.version()
        alone = len(originals) == 1 and not self._option.multi_platform
        images = [await self._convert(original, builder_version, root=alone) for original in originals]
        root = images[0].manifest if alone else await self._index(originals, images)
        return Result(
            root=root,
            platforms=[str(original.platform) for original in originals],
            layers_total=sum(image.layers_total for image in images),
            layers_reused=sum(image.layers_reused for image in images),
            source_size=sum(image.source_size for image in images),
            target_size=sum(image.target_size for image in images),
            left_out=self._left_out,
        )

    async def _select(self) -> list[_Original]:
        """The images to convert, in the source's order."""
        manifest = self._source.manifest
        wanted = self._source.platforms
        if isinstance(manifest, ImageManifest):
            check_image(manifest, is_nydus)
            original = await self._original(manifest, None)
            if not selected(original.platform, wanted):
                raise SkippedError("no selected platform")
            return [original]
        selection = await select(manifest, wanted, read=self._content.manifest, recognises=is_nydus)
        self._left_out += selection.left_out
        self._left_out += [f"{named(child)}: already a Nydus image" for child, _ in selection.in_format]
        self._left_out += [f"{named(child)}: not an image" for child in manifest.manifests if is_attestation(child)]
        return [await self._original(image, child.platform) for child, image in selection.chosen]

    async def _original(self, manifest: ImageManifest, platform: Platform | None) -> _Original:
        check_layers(manifest)
        raw = await self._content.read(manifest.config, limit=MAXIMUM_CONFIG_SIZE)
        config = parse_config(raw, len(manifest.layers))
        return _Original(manifest, platform or config.platform, config)

    async def _convert(self, original: _Original, builder_version: str | None, *, root: bool) -> NydusImage:
        content = self._content
        option = self._option
        layers = await self._layers(original.manifest)
        async with content.progress.stage("merge", str(original.platform)) as stage:
            bootstrap = await self._builder.merge([layer.content for layer in layers], option.parameters)
            stage.bytes = len(bootstrap.data)
        annotations = {
            **original.manifest.annotations,
            **self._marks,
            media.NYDUS_SOURCE_DIGEST: str(original.manifest.digest),
            media.NYDUS_SOURCE_REFERENCE: str(
                replace(content.source, digest=None) if content.source.tag else content.source
            ),
            media.NYDUS_FS_VERSION: "6",
        }
        if not root:
            annotations[ANNOTATION_SOURCE_DIGEST] = str(original.manifest.digest)
        if builder_version:
            annotations[media.NYDUS_BUILDER_VERSION] = builder_version
        return await push_image(
            content,
            original.manifest,
            original.config,
            layers,
            bootstrap,
            oci=self._oci(original.manifest),
            annotations=annotations,
            subject=original.manifest.descriptor if self._refers else None,
            config_media_type=media.INDEXED_CONFIG if option.multi_platform else None,
        )

    @property
    def _refers(self) -> bool:
        """An image whose subject is not in its own repository would be hidden for good."""
        return self._option.with_referrer and self._in_one_repository

    @property
    def _in_one_repository(self) -> bool:
        source, target = self._content.source, self._content.target
        return (source.registry, source.repository) == (target.registry, target.repository)

    def _oci(self, manifest: ImageManifest | Index) -> bool:
        docker = manifest.media_type in {media_types.DOCKER_MANIFEST, media_types.DOCKER_MANIFEST_LIST}
        return not docker or self._source.oci or self._option.multi_platform or self._option.oci_ref or self._refers

    async def _layers(self, manifest: ImageManifest) -> list[BlobLayer]:
        """In the manifest's order; a layer that stands there twice is converted once."""
        unique = {layer.digest: layer for layer in manifest.layers}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {digest: group.create_task(self._layer(layer)) for digest, layer in unique.items()}
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        return [tasks[layer.digest].result() for layer in manifest.layers]

    async def _layer(self, layer: Descriptor) -> BlobLayer:
        content = self._content
        if self._option.oci_ref:
            async with self._slots, content.layer_memory():
                await content.copy(layer)
        converted = await converted_once(
            content,
            layer,
            self._fingerprint,
            slots=self._slots,
            find=partial(self._known, layer),
            convert=partial(self._built, layer),
        )
        if self._cache is not None:
            self._cache.add(layer.digest, self._fingerprint, converted.descriptor)
        return converted

    async def _built(self, layer: Descriptor) -> BlobLayer:
        content = self._content
        async with content.progress.stage("convert", layer.digest) as stage:
            blob, found = await self._builder.convert_layer(layer, content, self._option.parameters)
            stage.bytes = layer.size
        await self._remember(layer, blob)
        return BlobLayer(blob, found, reused=False)

    async def _known(self, layer: Descriptor) -> BlobLayer | None:
        """From the layer cache, else from the build cache; a damaged one is converted again."""
        async with self._looks:
            cached = await self._content.cached_layer(layer, self._fingerprint)
            if cached is not None and (reused := await self._reuse(layer, cached.descriptor)) is not None:
                return reused
            known = self._cache.lookup(layer.digest, self._fingerprint) if self._cache is not None else None
            if known is not None and (reused := await self._reuse(layer, known)) is not None:
                await self._remember(layer, reused.descriptor)
                return reused
        return None

    async def _reuse(self, layer: Descriptor, found: Descriptor) -> BlobLayer | None:
        marks = reference_marks(layer) if self._option.oci_ref else {media.NYDUS_BLOB: "true"}
        descriptor = replace(found, media_type=media.BLOB_LAYER, annotations=marks)
        try:
            return BlobLayer(descriptor, await read_layer(descriptor, self._content.read_back), reused=True)
        except PermanentError as error:
            _log.warning(
                "a cached layer cannot be used",
                extra={"layer": layer.digest, "error": error.code, "reason": error.message},
            )
        return None

    async def _remember(self, layer: Descriptor, blob: Descriptor) -> None:
        await self._content.remember_layer(layer, self._fingerprint, ConvertedLayer(blob, blob.digest))

    async def _index(self, originals: list[_Original], images: list[NydusImage]) -> Index:
        content = self._content
        beside: list[Descriptor] = []
        nydus: list[Descriptor] = []
        for original, image in zip(originals, images, strict=True):
            if self._option.multi_platform:
                beside.append(await self._keep_original(original))
            pushed = await content.push_manifest(image.manifest)
            kind = media.ARTIFACT_TYPE if self._option.multi_platform else None
            nydus.append(replace(pushed, annotations={}, platform=original.platform, artifact_type=kind))
        source = self._source.manifest
        return image_index([*beside, *nydus], oci=self._oci(source), annotations={**source.annotations, **self._marks})

    async def _keep_original(self, original: _Original) -> Descriptor:
        """Push the original in the form that stands beside its Nydus image."""
        content = self._content
        for layer in original.manifest.layers:
            await content.copy(layer)
        empty = await content.push(EMPTY_LAYER, media_types.OCI_LAYER_GZIP, {media.NYDUS_EMPTY_LAYER: "true"})
        diff_ids = [EMPTY_LAYER_DIFF_ID, *original.config.diff_ids]
        config = await content.push(encode_config(original.config, diff_ids, prepend=True), media_types.OCI_CONFIG)
        manifest = original_manifest(original.manifest, config, empty)
        pushed = await content.push_manifest(manifest)
        marks = {media.NYDUS_SOURCE_DIGEST: str(original.manifest.digest)}
        return replace(pushed, platform=original.platform, annotations=marks)
