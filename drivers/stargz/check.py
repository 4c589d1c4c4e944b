"""``ics check``: read a converted image back, validate every layer, compare it with the source layer that it came from.

A layer is spooled to a temporary file, since its table, its chunks and its tar are read in different orders.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO

from drivers.api import ANNOTATION_SOURCE_DIGEST, ANNOTATION_SOURCE_REPOSITORY
from drivers.checking import CheckReport, Finding, Original, find_source, image_manifests
from drivers.image import MAXIMUM_CONFIG_SIZE, parse_config
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.stargz.comparison import Attributes, against_table, attributes, differences
from drivers.stargz.reader import ReadRange, Toc
from drivers.tar.entry import GLOBAL_PAX, TarEntry, clean
from drivers.tar.parser import TarParser
from shared.errors import CorruptLayerError, LimitExceededError, PermanentError
from shared.oci import media_types
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class CheckedFormat:
    """What is particular to a format."""

    type: str
    """Of the driver."""
    name: str
    is_lazy: Callable[[Descriptor], bool]
    """Whether a layer is of the format."""
    validate: Callable[[ReadRange, Descriptor], Awaitable[tuple[Toc, str]]]
    """Reads such a layer, raises CorruptLayerError for what is not as promised, and gives table and diff ID."""
    reserved: AbstractSet[str] = frozenset()
    """Names in a layer's tar that are the format's own."""
    keeps_config: bool = False
    """Whether layers keep their diff IDs, and with them an image its config."""


async def check_image(
    form: CheckedFormat,
    store: ImageStore,
    reference: Reference,
    *,
    original: Original | None = None,
    limits: LayerLimits | None = None,
) -> CheckReport:
    """Check every image of the format that ``reference`` names, those with inflated layers (``uncompress``) too.

    Args:
        form: the format.
        store: where the image is.
        reference: the image or index.
        original: where its source is; by default where the image's annotations say, or in its own repository.
        limits: of one layer.

    Raises:
        PermanentError: ``not_`` and the driver's type, or the store's own errors.
        TransientError: of the store.
    """
    manifests = await image_manifests(store, reference, await store.manifest(reference))
    images = [each for each in manifests if _is_of(form, each)]
    if not images:
        raise PermanentError(f"{reference} is no {form.name} image", code=f"not_{form.type}")
    check = _Check(form, store, reference, original, limits or LayerLimits())
    for image in images:
        await check.image(image)
    return check.report


def _is_of(form: CheckedFormat, manifest: ImageManifest) -> bool:
    """By its layers, or by our mark: layers that were only inflated have none of their own."""
    marked = manifest.annotations.get(ANNOTATION_DRIVER_NAME) == form.type
    return marked or any(form.is_lazy(layer) for layer in manifest.layers)


class _Check:
    def __init__(
        self,
        form: CheckedFormat,
        store: ImageStore,
        repository: Reference,
        original: Original | None,
        limits: LayerLimits,
    ) -> None:
        self.report = CheckReport()
        self._form = form
        self._own = Original(store, repository)
        self._original = original
        self._limits = limits

    async def image(self, manifest: ImageManifest) -> None:
        report = self.report
        report.images += 1
        if manifest.config.size > MAXIMUM_CONFIG_SIZE:
            raise LimitExceededError(f"the config has {manifest.config.size} bytes", limit="config_size")
        async with self._own.store.open_blob(self._own.reference, manifest.config) as pieces:
            config = parse_config(b"".join([piece async for piece in pieces]), len(manifest.layers))
        source = await find_source(
            manifest.annotations.get(ANNOTATION_SOURCE_DIGEST),
            manifest.annotations.get(ANNOTATION_SOURCE_REPOSITORY),
            given=self._original,
            own=self._own,
            report=report,
        )
        if source is not None and len(source[1].layers) != len(manifest.layers):
            self._found(manifest, "layers", f"{len(manifest.layers)}, the source has {len(source[1].layers)}")
            source = None
        if self._form.keeps_config and source is not None and manifest.config.digest != source[1].config.digest:
            self._found(manifest, "config", f"is {manifest.config.digest}, the source has {source[1].config.digest}")
        for number, layer in enumerate(manifest.layers):
            where = f"layers[{number}]"
            origin = None if source is None else (source[0], source[1].layers[number])
            lazy = self._form.is_lazy(layer)
            if not lazy and origin is not None and layer.digest == origin[1].digest:
                continue  # as it was
            if not lazy and layer.media_type != media_types.OCI_LAYER:
                if origin is not None:
                    self._found(manifest, where, f"is no {self._form.name} layer, and not the source's")
                continue
            report.blobs += 1
            read = self._lazy if lazy else self._inflated
            try:
                converted = await read(manifest, where, layer, config.diff_ids[number])
                report.entries += len(converted)
                if origin is not None:
                    async with self._spooled(*origin) as file:
                        original = await asyncio.to_thread(self._entries, file)
                    for path, message in differences(original, converted):
                        self._found(manifest, f"{where} /{path}", message)
            except (CorruptLayerError, LimitExceededError) as error:
                self._found(manifest, where, error.message)

    async def _lazy(
        self, manifest: ImageManifest, where: str, layer: Descriptor, diff_id: str
    ) -> dict[str, Attributes]:
        """A lazily readable layer's entries, held against its table."""
        async with self._spooled(self._own, layer) as file:

            async def read(start: int, length: int) -> bytes:
                return os.pread(file.fileno(), length, start)

            toc, found = await self._form.validate(read, layer)
            self.report.chunks += sum(len(entry.chunks) for entry in toc.entries.values())
            if found != diff_id:
                self._found(manifest, f"{where}.diff_id", f"is {found}, the config says {diff_id}")
            converted = await asyncio.to_thread(self._entries, file)
        for path, message in against_table(converted, toc, self._form.reserved):
            self._found(manifest, f"{where} /{path}", message)
        return converted

    async def _inflated(
        self, manifest: ImageManifest, where: str, layer: Descriptor, diff_id: str
    ) -> dict[str, Attributes]:
        """The entries of a layer that was only inflated (``uncompress``): its tar is the blob."""
        if layer.digest != diff_id:
            self._found(manifest, f"{where}.diff_id", f"is {layer.digest}, the config says {diff_id}")
        async with self._spooled(self._own, layer) as file:
            return await asyncio.to_thread(self._entries, file)

    @asynccontextmanager
    async def _spooled(self, place: Original, layer: Descriptor) -> AsyncIterator[IO[bytes]]:
        with await asyncio.to_thread(tempfile.TemporaryFile) as file:
            async with place.store.open_blob(place.reference, layer) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(file.flush)
            yield file

    def _entries(self, file: IO[bytes]) -> dict[str, Attributes]:
        """Every path of a layer's tar, the last entry of a path in force, without the format's own files."""
        file.seek(0)
        inflater, parser = Inflater(self._limits), TarParser(self._limits)
        entries: dict[str, Attributes] = {}
        entry: TarEntry | None = None
        content = hashlib.sha256()

        def keep() -> None:
            if entry is None or entry.type == GLOBAL_PAX:
                return
            path = clean(entry.name)
            if path not in self._form.reserved:
                entries.pop(path, None)
                entries[path] = attributes(entry, content.hexdigest())

        def pieces() -> Iterator[bytes]:
            while piece := file.read(_PIECE):
                yield from inflater.feed(piece)
            yield from inflater.finish()

        for piece in pieces():
            for event in parser.feed(piece):
                if isinstance(event, TarEntry):
                    keep()
                    entry, content = event, hashlib.sha256()
                else:
                    content.update(event)
        parser.finish()
        keep()
        return entries

    def _found(self, manifest: ImageManifest, where: str, message: str) -> None:
        self.report.findings.append(Finding(str(manifest.digest), where, message))
