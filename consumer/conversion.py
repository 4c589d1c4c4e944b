"""One conversion, step by step, from a request to a tag.

The order of the steps is what makes redeliveries, duplicates and races harmless:

1. The source's digest is the event's. A target that was made of it with the same fingerprint is *up to date*: nothing is pulled.
2. A source tag that has moved on makes the conversion *superseded*; the push that moved it sent its own event.
3. Everything but the root manifest is pushed; then the source tag is looked at again, and the root goes under the target tag.
4. Registries cannot compare and set a tag, so a newer conversion may finish between that look and the put, and its target be
   overwritten by the older one. Therefore the source tag is looked at once more *after* the put: if it moved, the conversion
   starts again with the newest digest. Whoever puts last has seen the newest source; the target converges to it. An attempt
   that dies between its put and that look is delivered again; whatever comes again looks whether the target is of the newest
   source, also when its own source is not wanted any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal

import orjson

from consumer.budget import MemoryBudget
from consumer.claims import LayerClaims
from consumer.content import StoreContent, manifest_or_none
from consumer.keyed_locks import KeyedLocks
from consumer.layer_cache import DEFAULT_REPOSITORY, LayerCache
from drivers.api import (
    ANNOTATION_FINGERPRINT,
    ANNOTATION_SOURCE_DIGEST,
    Driver,
    DriverOptions,
    Progress,
    Result,
    Source,
)
from drivers.catalogue import driver_memory, parse_options
from shared.errors import LimitExceededError, PermanentError, SkippedError, SupersededError, TransientError
from shared.messages import ConversionRequest
from shared.oci import media_types
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.planning import CONVERTED, expand_repository
from shared.registry.api import ImageStore
from shared.settings.model import Cache, Limits
from shared.telemetry.metrics import Metrics

MOVES = 5
"""How often a source tag may move under one conversion before it goes back to the queue."""
Left = Literal["nothing", "up to date", "outdated"]
"""Under a target: nothing of its request's, the request's own result, or one that the source's tag has left."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Converted:
    """A conversion whose target tag is pushed."""

    descriptor: Descriptor
    result: Result
    request: ConversionRequest
    """With the source digest that was converted, which is newer than the message's if the tag moved meanwhile."""


class Converter:
    """Runs conversions; one for the process.

    Args:
        drivers: driver type → driver.
        stores: where source and target are; one registry client in a consumer.
        claims: where there are other consumers that share the cache.
        replace_foreign: whether a target tag that no converter made may be replaced.
    """

    def __init__(
        self,
        drivers: Mapping[str, Driver],
        source_store: ImageStore,
        target_store: ImageStore,
        *,
        limits: Limits,
        cache: Cache,
        metrics: Metrics,
        claims: LayerClaims | None = None,
        replace_foreign: bool = False,
    ) -> None:
        self._drivers = drivers
        self._from = source_store
        self._to = target_store
        self._limits = limits
        self._cache = cache
        self._metrics = metrics
        self._claims = claims
        self._replace_foreign = replace_foreign
        self._locks = KeyedLocks()
        self._targets = KeyedLocks()
        self._cache_copies = asyncio.Semaphore(1)
        self._budget = MemoryBudget(limits.memory - driver_memory(limits))

    async def convert(self, request: ConversionRequest, progress: Progress, *, again: bool = False) -> Converted:
        """Run ``request`` to its end; ``again`` if an earlier attempt at it may have put a target.

        Raises:
            SkippedError: nothing to do (up to date, not an image, converted already, ...).
            SupersededError: the source tag has moved on or is gone.
            PermanentError, TransientError: classified where they arise.
        """
        driver, option = self._driver(request)
        # Two requests for one target in this process go one after the other: the second finds it up to date, or newer.
        async with self._targets.hold(str(request.target)):
            for _ in range(MOVES):
                converted = await self._once(request, driver, option, progress, again=again)
                newest = await self._moved_to(converted.request, converted.descriptor)
                if newest is None:
                    return converted
                _log.info("%s moved while it was converted: once more", request.source)
                request = request.model_copy(update={"source": replace(request.source, digest=newest.digest)})
        raise TransientError(f"{request.source} moved {MOVES} times while it was converted", code="source_moves")

    async def left(self, request: ConversionRequest) -> Left:
        """What an attempt at ``request`` that nobody saw end has left under its target. Raises what :meth:`convert` raises."""
        driver, option = self._driver(request)
        request = request.model_copy(update={"source": await self._resolve(request.source)})
        try:
            newest = await self._refuse_if_done(request, driver.fingerprint(option), again=True)
        except SkippedError:
            return "up to date"
        return "nothing" if newest is request else "outdated"

    def _driver(self, request: ConversionRequest) -> tuple[Driver, DriverOptions]:
        driver = self._drivers.get(request.driver.type)
        if driver is None:
            raise PermanentError(
                f"no driver {request.driver.type!r} here; there are: {', '.join(sorted(self._drivers))}",
                code="unknown_driver",
            )
        return driver, parse_options(driver, orjson.dumps(request.driver.config))

    async def _once(
        self, request: ConversionRequest, driver: Driver, option: DriverOptions, progress: Progress, *, again: bool
    ) -> Converted:
        fingerprint = driver.fingerprint(option)
        async with progress.stage("resolve"):
            source = await self._resolve(request.source)
            request = request.model_copy(update={"source": source})
            request = await self._refuse_if_done(request, fingerprint, again=again)
            await self._refuse_if_moved(request)
            async with self._wanted(request):
                manifest = await self._from.manifest(request.source)
                self._refuse_if_unsuitable(manifest)
        content = StoreContent(
            request.source,
            request.target,
            source_store=self._from,
            target_store=self._to,
            progress=progress,
            metrics=self._metrics,
            cache=self._layer_cache(request.target),
            locks=self._locks,
            budget=self._budget,
            claims=self._claims,
        )
        platforms = tuple(Platform.parse(text) for text in request.platforms)
        async with self._wanted(request):
            result = await driver.convert(Source(request.source, manifest, platforms, request.oci), content, option)
        async with progress.stage("tag") as stage:
            await self._refuse_if_moved(request)
            if not self._may_replace_anything(request):
                self._refuse_if_taken(request, await manifest_or_none(self._to, request.target))
            stage.bytes = len(result.root.raw)
            descriptor = await self._to.put_manifest(request.target, result.root)
        return Converted(descriptor, result, request)

    @asynccontextmanager
    async def _wanted(self, request: ConversionRequest) -> AsyncIterator[None]:
        """A failure with an image that its tag has left meanwhile is nobody's concern: superseded."""
        try:
            yield
        except PermanentError:
            await self._refuse_if_moved(request)
            raise

    async def _resolve(self, source: Reference) -> Reference:
        if source.digest is not None:
            return source
        found = await self._from.resolve(source)
        if found is None:
            raise PermanentError(f"there is no {source}", code="manifest_unknown", registry=source.registry)
        return source.with_digest(found.digest)

    async def _refuse_if_done(self, request: ConversionRequest, fingerprint: str, *, again: bool) -> ConversionRequest:
        """Up to date; or a tag that is somebody's own.

        The request comes back, with the newest source if the target is of one that its tag has left and this request may have
        put it: an earlier attempt, of this digest or gone on to a newer one, may have replaced a newer target with it, and died
        before the second look.
        """
        target = await manifest_or_none(self._to, request.target)
        self._refuse_if_taken(request, target)
        made_of = None if target is None else target.annotations.get(ANNOTATION_SOURCE_DIGEST)
        if target is None or made_of is None or not (again or made_of == request.source.digest):
            return request
        newest = await self._moved_to(request, target.descriptor)
        if newest is not None and newest.digest != made_of:
            return request.model_copy(update={"source": replace(request.source, digest=newest.digest)})
        if made_of == request.source.digest and target.annotations.get(ANNOTATION_FINGERPRINT) == fingerprint:
            raise SkippedError("up to date")
        return request

    def _refuse_if_taken(self, request: ConversionRequest, target: ImageManifest | Index | None) -> None:
        """A target tag that no converter made is somebody's own: only an overwriting rule may replace it."""
        if not (target is None or self._may_replace_anything(request) or self._made_by_a_converter(target)):
            raise PermanentError(
                f"{request.target} exists and is no converted image; delete it, or give the rule another target",
                code="target_not_ours",
                registry=request.target.registry,
                repository=request.target.repository,
            )

    def _may_replace_anything(self, request: ConversionRequest) -> bool:
        return self._replace_foreign or request.target == replace(request.source, digest=None)

    def _made_by_a_converter(self, manifest: ImageManifest | Index) -> bool:
        """By the mark; or by its shape, for what other converters made."""
        if ANNOTATION_DRIVER_NAME in manifest.annotations:
            return True
        if isinstance(manifest, Index):
            return any(child.artifact_type for child in manifest.manifests)
        return any(driver.recognises(manifest) for driver in self._drivers.values())

    async def _refuse_if_moved(self, request: ConversionRequest) -> None:
        if request.source.tag is None:
            return
        current = await self._from.resolve(replace(request.source, digest=None))
        if current is None or current.digest != request.source.digest:
            raise SupersededError(f"{request.source} is not what its tag points at any more")

    async def _moved_to(self, request: ConversionRequest, put: Descriptor) -> Descriptor | None:
        """What the source tag points at now, if that is neither the source nor our own result (an overwriting rule's)."""
        if request.source.tag is None:
            return None
        current = await self._from.resolve(replace(request.source, digest=None))
        if current is None or current.digest in {request.source.digest, put.digest}:
            return None
        return current

    def _refuse_if_unsuitable(self, manifest: ImageManifest | Index) -> None:
        if manifest.annotations.get(ANNOTATION_DRIVER_NAME):
            raise SkippedError(CONVERTED)
        if isinstance(manifest, Index):
            if len(manifest.manifests) > self._limits.index_manifests:
                raise LimitExceededError(
                    f"the index has {len(manifest.manifests)} manifests, more than limits.index_manifests"
                    f" ({self._limits.index_manifests})",
                    limit="index_manifests",
                )
            return
        if len(manifest.layers) > self._limits.manifest_layers:
            raise LimitExceededError(
                f"the image has {len(manifest.layers)} layers, more than limits.manifest_layers"
                f" ({self._limits.manifest_layers})",
                limit="manifest_layers",
            )
        if manifest.config.media_type not in media_types.IMAGE_CONFIGS:
            raise SkippedError("not a container image")
        if manifest.layers and not any(
            layer.media_type in media_types.LAYERS or media_types.is_foreign_layer(layer.media_type)
            for layer in manifest.layers
        ):
            raise SkippedError("its layers are of another format")

    def _layer_cache(self, target: Reference) -> LayerCache | None:
        if not self._cache.enabled:
            return None
        repository = expand_repository(self._cache.repository or DEFAULT_REPOSITORY, target)
        return LayerCache(self._to, repository, self._cache_copies)
