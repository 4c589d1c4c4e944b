"""The driver seam. A format is one folder with a ``Driver`` and one entry-point line in ``pyproject.toml``; one that replaces
layers one by one is a :class:`drivers.layerwise.LayerwiseDriver`, which is most of a driver.

Drivers see a ``Content`` object, never HTTP, and never put a tag: they return the root manifest, which the consumer puts
last, after it has checked that the source tag still points where it did.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict

from drivers.checking import CheckReport, Original
from drivers.limits import LayerLimits
from shared.errors import PermanentError
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

OpenBlob = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Gives a fresh stream over one source blob, verified as :meth:`Content.open` verifies."""

# The converter's own marks, acceleration-service's and ours: how ICS knows its output, what it came from, whether it is current.
ANNOTATION_DRIVER_VERSION = "io.goharbor.artifact.v1alpha1.acceleration.driver.version"
ANNOTATION_SOURCE_DIGEST = "io.goharbor.artifact.v1alpha1.acceleration.source.digest"
ANNOTATION_FINGERPRINT = "io.goharbor.ics.driver.fingerprint"
ANNOTATION_SOURCE_REPOSITORY = "io.goharbor.ics.source.repository"
"""``registry/repository`` that the source is in, where that is not the repository of the image itself."""


class DriverOptions(BaseModel):
    """Base of every driver's options: unknown keys and wrong types are refused with their path."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @classmethod
    def of(cls, option: DriverOptions) -> Self:
        """``option``, which comes to a driver as any driver's, as this model. Raises PermanentError: ``invalid_options``."""
        if not isinstance(option, cls):
            raise PermanentError(f"{type(option).__name__} are not {cls.__name__}", code="invalid_options")
        return option


OptionsModel = type[DriverOptions]


class BlobWriter(Protocol):
    """One upload under way into the target repository, hashed as it passes."""

    async def write(self, data: bytes | memoryview) -> None:
        """Back-pressure: returns when the next piece may come."""
        ...

    async def commit(self, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Finish; the descriptor has the digest and size of what was written."""
        ...


class Progress(Protocol):
    """Who wants to know how far it is. Every call is cheap and never fails."""

    def layer(self, digest: Digest, done: int, total: int) -> None:
        """Compressed source bytes read of ``total``."""
        ...

    def stage(self, name: str, subject: str = "") -> AbstractAsyncContextManager[StageRecord]:
        """Time one stage (names: ``shared.events.Stage``): a child span, a sample of a histogram, and a row of the waterfall."""
        ...


@dataclass(slots=True)
class StageRecord:
    """Filled in by the code inside the stage."""

    bytes: int = 0


@dataclass(frozen=True, slots=True)
class ConvertedLayer:
    """What a layer became."""

    descriptor: Descriptor
    """Of the blob in the target repository, annotations included."""
    diff_id: Digest
    """sha256 of the uncompressed layer (OCI image spec, config.md)."""


class Content(Protocol):
    """The source image's content to read, the target repository to write to."""

    source: Reference
    target: Reference
    progress: Progress

    async def manifest(self, descriptor: Descriptor) -> ImageManifest | Index:
        """A manifest of the source repository by digest, verified."""
        ...

    async def read(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """A small source blob (a config), verified; ``LimitExceededError`` above ``limit`` bytes."""
        ...

    def open(self, descriptor: Descriptor) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A source blob as a stream, digest and size verified: a mismatch raises instead of ending the iteration."""
        ...

    def create(self) -> AbstractAsyncContextManager[BlobWriter]:
        """Start an upload; leaving without ``commit`` cancels it at the registry."""
        ...

    async def push(self, data: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Upload a small blob unless it is there."""
        ...

    async def copy(self, descriptor: Descriptor) -> None:
        """Make a source blob available in the target repository: there already, mounted, or streamed."""
        ...

    async def push_manifest(self, manifest: ImageManifest | Index) -> Descriptor:
        """Put a manifest by digest (children of an index). The root is not pushed by the driver."""
        ...

    async def read_back(self, descriptor: Descriptor, start: int, length: int) -> bytes:
        """``length`` bytes from ``start`` of a blob in the *target* repository (a converted layer's own tables)."""
        ...

    async def target_manifest(self, tag: str) -> ImageManifest | Index | None:
        """What a tag of the target repository points at; None when there is no such tag."""
        ...

    async def put_target_manifest(self, tag: str, manifest: ImageManifest | Index) -> Descriptor:
        """Put a manifest under a tag of the target repository: for a driver's own build cache, never for the result."""
        ...

    async def cached_layer(self, source: Descriptor, fingerprint: str) -> ConvertedLayer | None:
        """A layer converted before, made available in the target repository (mount); None when unknown. Never raises."""
        ...

    async def remember_layer(self, source: Descriptor, fingerprint: str, layer: ConvertedLayer) -> None:
        """Record for :meth:`cached_layer`. Never raises."""
        ...

    def layer_lock(self, source: Descriptor, fingerprint: str) -> AbstractAsyncContextManager[None]:
        """Held while a layer is looked up and converted so that concurrent conversions in this process convert it once.

        Taken before anything that is scarce: whoever waits for another's work must hold nothing meanwhile.
        """
        ...

    def layer_claim(self, source: Descriptor, fingerprint: str) -> AbstractAsyncContextManager[bool]:
        """Held while a layer is converted so that other consumers do not convert it too; taken last, once nothing else is
        waited for. False: another consumer converts it, leave. Never raises.
        """
        ...

    async def layer_elsewhere(self, source: Descriptor, fingerprint: str) -> None:
        """Wait, for a bounded time, until the other consumer is done with a layer; then :meth:`cached_layer` may know it.

        Hold nothing that is scarce meanwhile. Never raises.
        """
        ...

    def layer_memory(self) -> AbstractAsyncContextManager[None]:
        """A layer's share of ``limits.memory``, held while it is converted; waits until there is one."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """The image to convert, resolved."""

    reference: Reference
    manifest: ImageManifest | Index
    platforms: Sequence[Platform] = ()
    """Selected; empty means all."""
    oci: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What a conversion made. Everything that ``root`` points at has been pushed; ``root`` itself has not."""

    root: ImageManifest | Index
    platforms: Sequence[str] = ()
    layers_total: int = 0
    layers_reused: int = 0
    source_size: int = 0
    target_size: int = 0
    """Bytes of the layers of all platforms converted."""
    left_out: Sequence[str] = ()
    """What of the source is not in the result, each with its reason (attestations, platforms), and layers that stay as they are."""


class UnconvertibleLayerError(Exception):
    """Not a failure of the image: a sound layer that the format cannot express faithfully stays as it is in the result.

    ``layerwise`` copies the original layer (an OCI media type, its own diff ID) and reports ``reason`` in :attr:`Result.left_out`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Driver(Protocol):
    """One format. Made once per process; its options come with each call."""

    type: ClassVar[str]
    version: ClassVar[str]
    """Changes whenever the bytes that the same input and options give change."""
    options: ClassVar[OptionsModel]

    def __init__(self, limits: LayerLimits) -> None:
        """``limits``: of one layer, and of what this driver may have at work in all layers of the process."""
        ...

    async def check_health(self, option: DriverOptions | None = None) -> None:
        """Raises ``IcsError`` when this driver cannot work here (a missing builder, an unwritable work directory).

        What depends on the configuration is checked when ``option`` is given.
        """
        ...

    def fingerprint(self, option: DriverOptions) -> str:
        """Hash of type, version and every option that changes the bytes: equal fingerprints give equal output."""
        ...

    def recognises(self, manifest: ImageManifest) -> bool:
        """Whether an image already is of this format (then there is nothing to do)."""
        ...

    async def check(self, store: ImageStore, reference: Reference, original: Original | None) -> CheckReport:
        """Read an image back, validate every structure, and compare its files with the source's, entry by entry.

        Args:
            store: where the image is.
            reference: an image that :meth:`recognises` knows, or an index of such images.
            original: where its source is; None where the image's annotations or its own repository say.

        Raises:
            PermanentError, TransientError: it could not be checked; what is wrong with it is in the report.
        """
        ...

    async def convert(self, source: Source, content: Content, option: DriverOptions) -> Result:
        """Convert the selected platforms.

        Raises:
            SkippedError: nothing to convert (already in the format, no image in it, no platform selected).
            PermanentError, TransientError: classified where they arise.
        """
        ...
