"""A whole driver out of one that converts layers: image manifests, configs and indexes around it.

What a converted image keeps: every key and annotation of manifest, config and index that need not change, the order of layers
and platforms, foreign layers, layers that the format cannot hold (as they are, reported), and layers that are in the format
already. What it does not keep: attestations of images that were converted, since they describe other digests; ``subject``,
which may not exist in the target repository; platforms that are not selected. Each is reported in ``Result.left_out``.

A format whose options ask for it gets a ``subject`` of its own on every platform's manifest: the image that it was made of.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from drivers.api import (
    ANNOTATION_DRIVER_VERSION,
    ANNOTATION_FINGERPRINT,
    ANNOTATION_SOURCE_DIGEST,
    ANNOTATION_SOURCE_REPOSITORY,
    BlobWriter,
    Content,
    ConvertedLayer,
    DriverOptions,
    OpenBlob,
    OptionsModel,
    Result,
    Source,
    UnconvertibleLayerError,
)
from drivers.checking import CheckReport, Original
from drivers.image import MAXIMUM_CONFIG_SIZE, Config, parse_config
from drivers.once import converted_once
from drivers.selection import ATTESTATION_SUBJECT, check_image, is_attestation, select, selected
from shared.errors import PermanentError, SkippedError, UnsupportedError, first_failure
from shared.oci import media_types
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

LAYERS_AT_ONCE = 4
"""Per conversion: while one downloads and one computes, another finishes its upload."""
LOOKS_AT_ONCE = 16
"""Per conversion, into the layer cache: an image of known layers is done in a blink, and no registry is flooded."""

_OF_ANOTHER_BLOB = (
    "containerd.io/snapshot/stargz/",
    "containerd.io/snapshot/overlaybd/",
    "io.containers.estargz.",
    "io.containers.zstd-chunked.",
    "io.github.containers.zstd-chunked.",
)
"""What annotations of a layer in a lazy format begin with that say where things are in it: of a source's bytes, not of ours.

Podman refuses a layer that has those of two formats."""


class LayerwiseDriver(ABC):
    """Base of a format that replaces layers one by one: a :class:`drivers.api.Driver` once the abstract methods are there."""

    type: ClassVar[str]
    version: ClassVar[str]
    options: ClassVar[OptionsModel]

    @abstractmethod
    def fingerprint(self, option: DriverOptions) -> str:
        """See :meth:`drivers.api.Driver.fingerprint`."""

    def layer_fingerprint(self, option: DriverOptions) -> str:
        """Equal for options that give equal layers; the layer cache's key beside the source layer."""
        return self.fingerprint(option)

    def refers(self, option: DriverOptions) -> bool:  # noqa: ARG002  the seam's signature: most formats never do
        """Whether converted images name their source as ``subject``, where both are in one repository."""
        return False

    @abstractmethod
    def recognises_layer(self, layer: Descriptor) -> bool:
        """By annotations and media type alone."""

    @abstractmethod
    async def convert_layer(
        self, layer: Descriptor, open_blob: OpenBlob, writer: BlobWriter, option: DriverOptions
    ) -> ConvertedLayer:
        """One stream in, one stream out; no whole layer in memory, no temporary file.

        Args:
            layer: of the source; its media type may be wrong about its compression.
            open_blob: called once, or twice by a format that must put late entries first.
            writer: takes the converted layer, which is committed here.
            option: of this driver.

        Raises:
            UnconvertibleLayerError: a sound layer that the format cannot hold; nothing was committed. The original stays.
            CorruptLayerError, LimitExceededError: the layer's bytes are wrong or too much.
        """

    @abstractmethod
    async def check(self, store: ImageStore, reference: Reference, original: Original | None) -> CheckReport:
        """See :meth:`drivers.api.Driver.check`."""

    async def check_health(self, option: DriverOptions | None = None) -> None:  # noqa: B027  most formats have nothing to check
        """Nothing but this process is needed."""

    def recognises(self, manifest: ImageManifest) -> bool:
        convertible = [layer for layer in manifest.layers if not media_types.is_foreign_layer(layer.media_type)]
        return bool(convertible) and all(self.recognises_layer(layer) for layer in convertible)

    async def convert(self, source: Source, content: Content, option: DriverOptions) -> Result:
        return await _Conversion(self, source, content, option).run()


@dataclass(slots=True)
class _Totals:
    layers: int = 0
    reused: int = 0
    source_size: int = 0
    target_size: int = 0
    converted: int = 0
    platforms: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Layer:
    """What stands in the converted manifest for one source layer."""

    descriptor: Descriptor
    diff_id: Digest | None
    """None: unchanged."""
    reused: bool = False
    converted: bool = True


class _Conversion:
    """Runs once."""

    def __init__(self, driver: LayerwiseDriver, source: Source, content: Content, option: DriverOptions) -> None:
        self._driver = driver
        self._source = source
        self._content = content
        self._option = option
        self._fingerprint = driver.layer_fingerprint(option)
        # A subject that is not in the image's own repository would hide it for good.
        self._refers = driver.refers(option) and content.source.same_repository(content.target)
        self._totals = _Totals()
        self._slots = asyncio.Semaphore(LAYERS_AT_ONCE)
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._layers: dict[Digest, asyncio.Task[_Layer]] = {}

    async def run(self) -> Result:
        manifest = self._source.manifest
        docker = manifest.media_type in {media_types.DOCKER_MANIFEST, media_types.DOCKER_MANIFEST_LIST}
        if docker and not self._source.oci:
            raise PermanentError(
                f"the {self._driver.type} format needs OCI media types: a Docker manifest cannot carry the annotations that make"
                " its layers lazy. Set oci: true in the rule",
                code="oci_required",
            )
        root: ImageManifest | Index
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                if isinstance(manifest, ImageManifest):
                    root = await self._single(manifest)
                else:
                    root = await self._index(manifest)
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        totals = self._totals
        return Result(
            root=root,
            platforms=tuple(totals.platforms),
            layers_total=totals.layers,
            layers_reused=totals.reused,
            source_size=totals.source_size,
            target_size=totals.target_size,
            left_out=tuple(dict.fromkeys(totals.left_out)),
        )

    async def _single(self, manifest: ImageManifest) -> ImageManifest:
        check_image(manifest, self._driver.recognises)
        config = await self._config(manifest)
        if not selected(config.platform, self._source.platforms):
            raise SkippedError("no selected platform")
        converted = await self._image(manifest, config)
        if not self._totals.converted:
            raise SkippedError("no layer can be converted")
        return converted

    async def _index(self, index: Index) -> Index:
        """Children keep their order; the ones that are converted are pushed by digest here."""
        selection = await select(
            index, self._source.platforms, read=self._content.manifest, recognises=self._driver.recognises
        )
        self._totals.left_out += selection.left_out
        new: dict[Digest, Descriptor] = {}
        chosen = {child.digest: manifest for child, manifest in selection.chosen}
        tasks = {digest: self._group.create_task(self._child(manifest)) for digest, manifest in chosen.items()}
        for digest, task in tasks.items():
            new[digest] = await task
        if not self._totals.converted:
            raise SkippedError("no layer can be converted")
        kept = {child.digest: await self._keep(manifest) for child, manifest in selection.in_format}
        return await self._rebuilt(index, new, kept)

    async def _rebuilt(self, index: Index, new: dict[Digest, Descriptor], kept: dict[Digest, Descriptor]) -> Index:
        manifests: list[dict[str, Any]] = []
        for child in index.manifests:
            if child.digest in new:
                changed = child.pointing_at(new[child.digest])
                manifests.append(replace(changed, artifact_type=None).to_json())
            elif child.digest in kept:
                manifests.append(child.to_json())
            elif is_attestation(child):
                described = child.annotations.get(ATTESTATION_SUBJECT, "")
                if described in kept:
                    manifest = await self._content.manifest(child)
                    if isinstance(manifest, ImageManifest):
                        await self._keep(manifest)
                        manifests.append(child.to_json())
                        continue
                self._totals.left_out.append(
                    f"attestation ({child.digest.short}): it describes an image that is not in the converted index"
                )
        rebuilt = {
            **{key: value for key, value in index.data.items() if key not in {"subject", "artifactType"}},
            "mediaType": media_types.OCI_INDEX,
            "manifests": manifests,
            "annotations": {**index.annotations, **self._marks(index.digest)},
        }
        result = encode_manifest(_ordered(rebuilt))
        assert isinstance(result, Index)  # noqa: S101  by its media type
        return result

    async def _child(self, manifest: ImageManifest) -> Descriptor:
        config = await self._config(manifest)
        image = await self._image(manifest, config)
        return await self._content.push_manifest(image)

    async def _keep(self, manifest: ImageManifest) -> Descriptor:
        """Make an image available in the target repository as it is."""
        for blob in (manifest.config, *manifest.layers):
            if not media_types.is_foreign_layer(blob.media_type):
                await self._content.copy(blob)
        return await self._content.push_manifest(manifest)

    async def _config(self, manifest: ImageManifest) -> Config:
        raw = await self._content.read(manifest.config, limit=MAXIMUM_CONFIG_SIZE)
        return parse_config(raw, len(manifest.layers))

    async def _image(self, manifest: ImageManifest, config: Config) -> ImageManifest:
        """Layers, then the config that names them, then the manifest, which is not pushed here."""
        tasks = [self._task(layer) for layer in manifest.layers]
        layers = [await task for task in tasks]
        self._count(config.platform, manifest.layers, layers)
        diff_ids = [layer.diff_id or old for layer, old in zip(layers, config.diff_ids, strict=True)]
        async with self._content.progress.stage("manifest", str(config.platform)):
            pushed = await self._content.push(config.with_diff_ids(diff_ids), media_types.OCI_CONFIG)
        new = {
            **{key: value for key, value in manifest.data.items() if key not in {"subject", "artifactType"}},
            "mediaType": media_types.OCI_MANIFEST,
            "config": manifest.config.pointing_at(pushed).to_json(),
            "layers": [layer.descriptor.to_json() for layer in layers],
            **({"subject": manifest.descriptor.to_json()} if self._refers else {}),
            "annotations": {**manifest.annotations, **self._marks(manifest.digest)},
        }
        result = encode_manifest(_ordered(new))
        assert isinstance(result, ImageManifest)  # noqa: S101  by its media type
        return result

    def _count(self, platform: Platform, before: Sequence[Descriptor], after: Sequence[_Layer]) -> None:
        totals = self._totals
        totals.platforms.append(str(platform))
        totals.layers += len(after)
        totals.reused += sum(layer.reused for layer in after)
        totals.converted += sum(layer.converted for layer in after)
        totals.source_size += sum(layer.size for layer in before)
        totals.target_size += sum(layer.descriptor.size for layer in after)

    def _task(self, layer: Descriptor) -> asyncio.Task[_Layer]:
        """One task a digest: a layer that stands in two platforms, or twice in one, is converted once."""
        if layer.digest not in self._layers:
            self._layers[layer.digest] = self._group.create_task(self._layer(layer))
        return self._layers[layer.digest]

    async def _layer(self, layer: Descriptor) -> _Layer:
        content = self._content
        if media_types.is_foreign_layer(layer.media_type):
            return _Layer(layer, None, converted=False)
        if layer.media_type not in media_types.LAYERS:
            raise UnsupportedError(f"layer {layer.digest} has media type {layer.media_type}, which is no plain layer")
        if self._driver.recognises_layer(layer):
            async with self._slots, content.layer_memory():
                return await self._as_it_is(layer)
        return await converted_once(
            content,
            layer,
            self._fingerprint,
            slots=self._slots,
            find=partial(self._cached, layer),
            convert=partial(self._converted, layer),
        )

    async def _cached(self, layer: Descriptor) -> _Layer | None:
        async with self._looks:
            found = await self._content.cached_layer(layer, self._fingerprint)
        return None if found is None else _Layer(_described(layer, found), found.diff_id, reused=True)

    async def _converted(self, layer: Descriptor) -> _Layer:
        content = self._content
        try:
            async with content.progress.stage("convert", layer.digest) as stage, content.create() as writer:
                converted = await self._driver.convert_layer(layer, lambda: content.open(layer), writer, self._option)
                stage.bytes = layer.size
        except UnconvertibleLayerError as error:
            self._totals.left_out.append(f"layer {layer.digest.short} stays as it is: {error.reason}")
            return await self._as_it_is(layer)
        await content.remember_layer(layer, self._fingerprint, converted)
        return _Layer(_described(layer, converted), converted.diff_id)

    async def _as_it_is(self, layer: Descriptor) -> _Layer:
        await self._content.copy(layer)
        return _Layer(replace(layer, media_type=media_types.to_oci(layer.media_type)), None, converted=False)

    def _marks(self, source_digest: Digest) -> dict[str, str]:
        source, target = self._content.source, self._content.target
        # Where both are in one repository nothing is said, so that a repository may be copied; localhost is nobody else's.
        where = f"{source.registry}/{source.repository}"
        known = not source.same_repository(target) and source.registry.partition(":")[0] != "localhost"
        return {
            **({ANNOTATION_SOURCE_REPOSITORY: where} if known else {}),
            ANNOTATION_DRIVER_NAME: self._driver.type,
            ANNOTATION_DRIVER_VERSION: self._driver.version,
            ANNOTATION_SOURCE_DIGEST: str(source_digest),
            ANNOTATION_FINGERPRINT: self._driver.fingerprint(self._option),
        }


def _described(source: Descriptor, converted: ConvertedLayer) -> Descriptor:
    """The converted blob under the source's own annotations, the format's on top."""
    kept = {key: value for key, value in source.annotations.items() if not key.startswith(_OF_ANOTHER_BLOB)}
    return replace(converted.descriptor, annotations={**kept, **converted.descriptor.annotations})


def _ordered(manifest: dict[str, Any]) -> dict[str, Any]:
    """``schemaVersion`` and ``mediaType`` first, wherever the source had them (a list may have had no media type)."""
    first = {"schemaVersion": 2, "mediaType": manifest["mediaType"]}
    return first | {key: value for key, value in manifest.items() if key not in first}
