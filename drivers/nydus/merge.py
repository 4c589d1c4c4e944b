"""Layer bootstraps to the image's bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy

from drivers.nydus.overlay import Overlay
from drivers.nydus.paths import components, find
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.layout import MAXIMUM_BLOBS, BlobFeatures, Compressor, Digester
from drivers.nydus.tree import Blob, Inode, walk
from shared.errors import CorruptLayerError, UnsupportedError


def merge(
    layers: Iterable[Bootstrap],
    *,
    chunk_size: int,
    compressor: Compressor,
    digester: Digester,
    prefetch_patterns: Sequence[str],
) -> Bootstrap:
    """Overlay the layers, lowest first. ``layers`` may be lazy: one layer at a time is looked at.

    Raises:
        UnsupportedError: more blobs with data than a bootstrap can name, or layers with different chunk sizes.
        CorruptLayerError: the layers do not fit onto each other.
    """
    overlay = Overlay()
    for layer in layers:
        if layer.blobs and layer.chunk_size != chunk_size:
            raise UnsupportedError(f"a layer has chunks of {layer.chunk_size} bytes, the image of {chunk_size}")
        overlay.apply(layer.root)
    blobs = used_blobs(overlay.root)
    if len(blobs) > MAXIMUM_BLOBS:
        raise UnsupportedError(f"{len(blobs)} layers with data; RAFS v6 can name {MAXIMUM_BLOBS}")
    return Bootstrap(
        root=overlay.root,
        blobs=blobs,
        chunk_size=chunk_size,
        compressor=compressor,
        digester=digester,
        prefetch=prefetch_inodes(overlay.root, prefetch_patterns),
    )


def used_blobs(root: Inode) -> list[Blob]:
    """The blobs that files refer to, in order of first use in the tree's order; without the mark of inline bootstraps."""
    blobs: dict[str, Blob] = {}
    for _, inode in walk(root):
        for chunk in inode.chunks:
            if chunk.blob.id not in blobs:
                blob = copy(chunk.blob)
                blob.features &= ~BlobFeatures.INLINED_FS_META
                blobs[blob.id] = blob
    return list(blobs.values())


def prefetch_inodes(root: Inode, patterns: Sequence[str]) -> list[Inode]:
    """The inodes of the patterns' paths; one that matches nothing, or lies below an earlier one, is left out."""
    chosen: list[tuple[list[bytes], Inode]] = []
    for pattern in patterns:
        try:
            parts = components(pattern.encode("utf-8", "surrogateescape"))
        except CorruptLayerError:
            continue
        inode = find(root, parts)
        if inode is not None and not any(parts[: len(earlier)] == earlier for earlier, _ in chosen):
            chosen.append((parts, inode))
    return [inode for _, inode in chosen]
