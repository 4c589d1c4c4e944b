"""``ics nydus check``: read an image back from where it lives, validate every structure, compare it with its source.

Reads the way a node would: manifest, config, bootstrap layer, each blob's tables by range, and every chunk of every blob. The
source's layers are applied to a tree in memory; contents are compared by the digests of their chunks, so nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator

from drivers.checking import CheckReport, Finding, Original, find_source, image_manifests
from drivers.limits import LayerLimits
from drivers.nydus import media
from drivers.nydus.comparison import SourceTree, compare_trees
from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.feed import feeding, in_own_thread
from drivers.nydus.image import is_nydus
from drivers.nydus.image_reader import ImageReader
from drivers.nydus.rafs_v6.layout import Digester
from shared.errors import CorruptLayerError, PermanentError
from shared.oci.manifest import ImageManifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore


async def check_image(
    store: ImageStore,
    reference: Reference,
    *,
    original: Original | None = None,
    limits: LayerLimits | None = None,
) -> CheckReport:
    """Check a Nydus image, or every Nydus image of an index.

    Args:
        store: where the image is.
        reference: the image.
        original: where its source is; by default in ``store`` under the name of the image's own annotation, or in its own
            repository. The manifest is always the one whose digest the image records.
        limits: of one layer.

    Raises:
        PermanentError: ``reference`` has no Nydus image (code ``not_nydus``), or the store's own errors.
        TransientError: of the store.
    """
    check = _Check(store, reference, original, limits or LayerLimits())
    children = await image_manifests(store, reference, await store.manifest(reference))
    images = [child for child in children if is_nydus(child)]
    if not images:
        raise PermanentError(f"{reference} is no Nydus image", code="not_nydus")
    for image in images:
        await check.image(image)
    return check.report


class _Check:
    def __init__(
        self, store: ImageStore, repository: Reference, original: Original | None, limits: LayerLimits
    ) -> None:
        self.report = CheckReport()
        self._store = store
        self._repository = repository
        self._original = original
        self._limits = limits
        self._reader = ImageReader(store, repository, limits)

    async def image(self, manifest: ImageManifest) -> None:
        report = self.report
        report.images += 1
        try:
            content = await self._reader.read(manifest)
            report.blobs += len(content.layers)
            for descriptor, layer in zip(manifest.layers, content.layers, strict=False):
                report.chunks += await self._reader.check_data(descriptor, layer)
        except InvalidNydusError as error:
            report.findings.append(Finding(manifest.digest, error.field, error.reason))
            return
        except CorruptLayerError as error:
            report.findings.append(Finding(manifest.digest, "blob", error.message))
            return
        found = await find_source(
            manifest.annotations.get(media.NYDUS_SOURCE_DIGEST),
            manifest.annotations.get(media.NYDUS_SOURCE_REFERENCE),
            given=self._original,
            own=Original(self._store, self._repository),
            report=report,
        )
        if found is None:
            return
        original, image = found
        tree = SourceTree(content.bootstrap.chunk_size, Digester(content.bootstrap.digester))
        for original_layer in image.layers:
            async with original.store.open_blob(original.reference, original_layer) as pieces, feeding(pieces) as feed:
                await in_own_thread(tree.apply, feed.read(), self._limits)
        differences: Iterator[tuple[bytes, str]] = compare_trees(tree, content.bootstrap.root)
        for path, message in differences:
            report.findings.append(Finding(manifest.digest, "/" + path.decode("utf-8", "backslashreplace"), message))
        report.entries += tree.entries()
