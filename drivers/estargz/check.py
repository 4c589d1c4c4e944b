"""``ics check``: read an eStargz image back, validate every layer, compare it with the source layer that it came from.

A layer is spooled to a temporary file, since its table, its chunks and its tar are read in different orders.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from drivers.api import ANNOTATION_SOURCE_DIGEST
from drivers.checking import CheckReport, Finding, Original, image_manifests, original_manifest
from drivers.estargz.layout import ANNOTATION_TOC_DIGEST, RESERVED_NAMES
from drivers.estargz.reader import Toc, validate
from drivers.image import MAXIMUM_CONFIG_SIZE, parse_config
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.tar.entry import GLOBAL_PAX, HARD_LINK, REGULAR, SYMLINK, TarEntry, clean
from drivers.tar.parser import TarParser
from shared.errors import CorruptLayerError, LimitExceededError, PermanentError
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import ImageManifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

_PIECE = 1 << 20
_FIELDS = ("type", "mode", "owner", "mtime", "link", "device", "xattrs", "size", "content")

Attributes = tuple[Any, ...]
"""What two entries of one path are compared by, in the order of ``_FIELDS``."""


async def check_image(
    store: ImageStore, reference: Reference, *, original: Original | None = None, limits: LayerLimits | None = None
) -> CheckReport:
    """Check every eStargz image that ``reference`` names.

    Args:
        store: where the image is.
        reference: the image or index.
        original: where its source is; by default in the image's own repository.
        limits: of one layer.

    Raises:
        PermanentError: ``not_estargz``, or the store's own errors.
        TransientError: of the store.
    """
    manifests = await image_manifests(store, reference, await store.manifest(reference))
    images = [each for each in manifests if any(ANNOTATION_TOC_DIGEST in layer.annotations for layer in each.layers)]
    if not images:
        raise PermanentError(f"{reference} is no eStargz image", code="not_estargz")
    check = _Check(store, reference, original or Original(store, reference), limits or LayerLimits())
    for image in images:
        await check.image(image)
    return check.report


class _Check:
    def __init__(self, store: ImageStore, repository: Reference, original: Original, limits: LayerLimits) -> None:
        self.report = CheckReport()
        self._store = store
        self._repository = repository
        self._original = original
        self._limits = limits

    async def image(self, manifest: ImageManifest) -> None:
        report = self.report
        report.images += 1
        if manifest.config.size > MAXIMUM_CONFIG_SIZE:
            raise LimitExceededError(f"the config has {manifest.config.size} bytes", limit="config_size")
        async with self._store.open_blob(self._repository, manifest.config) as pieces:
            config = parse_config(b"".join([piece async for piece in pieces]), len(manifest.layers))
        source = await original_manifest(self._original, manifest.annotations.get(ANNOTATION_SOURCE_DIGEST))
        if source is None:
            report.compared = False
        elif len(source.layers) != len(manifest.layers):
            self._found(manifest, "layers", f"{len(manifest.layers)}, the source has {len(source.layers)}")
            source = None
        for number, layer in enumerate(manifest.layers):
            if ANNOTATION_TOC_DIGEST not in layer.annotations:
                continue  # one that stayed as it was
            report.blobs += 1
            try:
                await self._layer(
                    manifest,
                    f"layers[{number}]",
                    layer,
                    config.diff_ids[number],
                    None if source is None else source.layers[number],
                )
            except (CorruptLayerError, LimitExceededError) as error:
                self._found(manifest, f"layers[{number}]", error.message)

    async def _layer(
        self, manifest: ImageManifest, where: str, layer: Descriptor, diff_id: str, source: Descriptor | None
    ) -> None:
        with await asyncio.to_thread(tempfile.TemporaryFile) as file:
            async with self._store.open_blob(self._repository, layer) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(file.flush)

            async def read(start: int, length: int) -> bytes:
                return os.pread(file.fileno(), length, start)

            toc, found = await validate(read, layer.size, layer.annotations[ANNOTATION_TOC_DIGEST])
            self.report.chunks += sum(len(entry.chunks) for entry in toc.entries.values())
            if found != diff_id:
                self._found(manifest, f"{where}.diff_id", f"is {found}, the config says {diff_id}")
            converted = await asyncio.to_thread(self._entries, file)
        for path, message in _against_table(converted, toc):
            self._found(manifest, f"{where} /{path}", message)
        self.report.entries += len(converted)
        if source is None:
            return
        with await asyncio.to_thread(tempfile.TemporaryFile) as file:
            async with self._original.store.open_blob(self._original.repository, source) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(file.write, piece)
            original = await asyncio.to_thread(self._entries, file)
        for path, message in _differences(original, converted):
            self._found(manifest, f"{where} /{path}", message)

    def _entries(self, file: IO[bytes]) -> dict[str, Attributes]:
        """Every path of a layer's tar, the last entry of a path in force, without the format's own files."""
        file.seek(0)
        inflater, parser = Inflater(self._limits), TarParser(self._limits)
        entries: dict[str, Attributes] = {}
        entry: TarEntry | None = None
        content = hashlib.sha256()

        def keep() -> None:
            if entry is not None and entry.type != GLOBAL_PAX and (path := clean(entry.name)) not in RESERVED_NAMES:
                entries.pop(path, None)
                entries[path] = _attributes(entry, content.hexdigest())

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


def _attributes(entry: TarEntry, content: str) -> Attributes:
    link = clean(entry.link) if entry.type == HARD_LINK else entry.link if entry.type == SYMLINK else ""
    return (
        entry.type,
        entry.mode & 0o7777,
        (entry.uid, entry.gid, entry.user, entry.group),
        (entry.mtime, entry.mtime_nsec),
        link,
        (entry.major, entry.minor),
        dict(entry.xattrs),
        entry.size,
        content,
    )


def _against_table(entries: dict[str, Attributes], toc: Toc) -> Iterator[tuple[str, str]]:
    """What the tar has and the table of contents, which lazy readers go by, tells otherwise."""
    for path, attributes in entries.items():
        row = toc.entries.get(path)
        if row is None:
            if path:
                yield path, "is in the tar and not in the table of contents"
            continue
        size, content = attributes[-2:]
        if attributes[0] == REGULAR and (row.size != size or (size and row.digest != f"sha256:{content}")):
            yield path, "has another size or digest in the table of contents"
    for path in toc.entries.keys() - entries.keys() - RESERVED_NAMES:
        if toc.entries[path].type != "dir":  # parents that the tar only implies
            yield path, "is in the table of contents and not in the tar"


def _differences(expected: dict[str, Attributes], found: dict[str, Attributes]) -> Iterator[tuple[str, str]]:
    for path, attributes in expected.items():
        converted = found.get(path)
        if converted is None:
            yield path, "is missing"
            continue
        for field, mine, theirs in zip(_FIELDS, converted, attributes, strict=True):
            if mine != theirs:
                yield path, f"{field} is {str(mine)[:200]}, the source has {str(theirs)[:200]}"
    for path in found.keys() - expected.keys():
        yield path, "is not in the source"
