"""``ics nydus check``: read an image back from where it lives, validate every structure, compare it with its source.

Reads the way a node would: manifest, config, bootstrap layer, each blob's tables by range, and every chunk of every blob. The
source's layers are applied to a tree in memory; contents are compared by the digests of their chunks, so nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from drivers.limits import LayerLimits
from drivers.nydus import media
from drivers.nydus.comparison import SourceTree, compare_trees
from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.feed import feeding, in_own_thread
from drivers.nydus.image import is_nydus
from drivers.nydus.image_reader import ImageReader
from drivers.nydus.rafs_v6.layout import Digester
from shared.errors import CorruptLayerError, PermanentError
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest
from shared.oci.reference import Reference, parse_reference
from shared.registry.api import ImageStore


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    image: str
    """The platform's manifest digest."""
    where: str
    """A structure's field (``blob[0].id``) or a path of the file tree."""
    message: str

    def __str__(self) -> str:
        return f"{self.image[:19]} {self.where}: {self.message}"


@dataclass(slots=True)
class CheckReport:
    """``ok`` if nothing was found; the counts say how much was looked at."""

    images: int = 0
    entries: int = 0
    """Of all trees; compared one by one if there was a source to compare with."""
    blobs: int = 0
    chunks: int = 0
    compared: bool = True
    """Whether every image's source was there to compare with."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings


async def check_image(
    store: ImageStore,
    reference: Reference,
    *,
    source: Reference | None = None,
    data: bool = True,
    limits: LayerLimits | None = None,
) -> CheckReport:
    """Check a Nydus image, or every Nydus image of an index.

    Args:
        store: where image and source are.
        reference: the image.
        source: the repository of the source; by default the one that the image's own annotation names. The manifest is
            always the one whose digest the image records.
        data: also read every blob and check every chunk against its digest.
        limits: of one layer.

    Raises:
        PermanentError: ``reference`` has no Nydus image (code ``not_nydus``), or the store's own errors.
        TransientError: of the store.
    """
    check = _Check(store, reference, source, data=data, limits=limits or LayerLimits())
    manifest = await store.manifest(reference)
    if isinstance(manifest, ImageManifest):
        children = [manifest]
    else:
        children = []
        for descriptor in manifest.manifests:
            child = await store.manifest(reference.with_digest(descriptor.digest))
            if isinstance(child, ImageManifest):
                children.append(child)
    images = [child for child in children if is_nydus(child)]
    if not images:
        raise PermanentError(f"{reference} is no Nydus image", code="not_nydus")
    for image in images:
        await check.image(image)
    return check.report


class _Check:
    def __init__(
        self, store: ImageStore, repository: Reference, source: Reference | None, *, data: bool, limits: LayerLimits
    ) -> None:
        self.report = CheckReport()
        self._store = store
        self._source = source
        self._data = data
        self._limits = limits
        self._reader = ImageReader(store, repository, limits)

    async def image(self, manifest: ImageManifest) -> None:
        report = self.report
        report.images += 1
        try:
            content = await self._reader.read(manifest)
            report.blobs += len(content.layers)
            if self._data:
                for descriptor, layer in zip(manifest.layers, content.layers, strict=False):
                    report.chunks += await self._reader.check_data(descriptor, layer)
        except InvalidNydusError as error:
            report.findings.append(Finding(manifest.digest, error.field, error.message))
            return
        except CorruptLayerError as error:
            report.findings.append(Finding(manifest.digest, "blob", error.message))
            return
        original = await self._original(manifest)
        if original is None:
            report.compared = False
            return
        repository, image = original
        tree = SourceTree(content.bootstrap.chunk_size, Digester(content.bootstrap.digester))
        for original_layer in image.layers:
            async with self._store.open_blob(repository, original_layer) as pieces, feeding(pieces) as feed:
                await in_own_thread(tree.apply, feed.read(), self._limits)
        differences: Iterator[tuple[bytes, str]] = compare_trees(tree, content.bootstrap.root)
        for path, message in differences:
            report.findings.append(Finding(manifest.digest, "/" + path.decode("utf-8", "backslashreplace"), message))
        report.entries += tree.entries()

    async def _original(self, manifest: ImageManifest) -> tuple[Reference, ImageManifest] | None:
        """The source image, if the manifest records it and it is still there."""
        recorded = manifest.annotations.get(media.NYDUS_SOURCE_DIGEST)
        if recorded is None:
            return None
        name = self._source or manifest.annotations.get(media.NYDUS_SOURCE_REFERENCE)
        if name is None:
            return None
        repository = parse_reference(name) if isinstance(name, str) else name
        reference = repository.with_digest(Digest(recorded))
        if await self._store.resolve(reference) is None:
            return None
        found = await self._store.manifest(reference)
        return (repository, found) if isinstance(found, ImageManifest) else None
