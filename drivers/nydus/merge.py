"""Layer bootstraps to the image's bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

from drivers.nydus.overlay import Overlay
from drivers.nydus.paths import components, find
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.layout import MAXIMUM_BLOBS, BlobFeatures, Compressor, Digester
from drivers.nydus.tree import Blob, Chunk, Inode, directory, inodes, walk
from shared.errors import CorruptLayerError, UnsupportedError


def merge(
    layers: Sequence[Bootstrap],
    *,
    chunk_size: int,
    compressor: Compressor,
    digester: Digester,
    prefetch_patterns: Sequence[str],
    share_chunks: bool = False,
) -> Bootstrap:
    """Overlay the layers, lowest first. Takes their trees over and leaves them empty: an image's is held once in memory.

    Args:
        layers: one that stands there twice is applied twice.
        chunk_size: of the image, in bytes.
        compressor: for the superblock; each blob keeps its own.
        digester: likewise.
        prefetch_patterns: absolute paths.
        share_chunks: let files refer to the lowest layer that has an equal chunk, so that a node fetches and caches it once.

    Raises:
        UnsupportedError: more blobs with data than a bootstrap can name, or layers with different chunk sizes.
        CorruptLayerError: the layers do not fit onto each other.
    """
    overlay = Overlay()
    order: dict[str, int] = {}
    last = {id(layer): position for position, layer in enumerate(layers)}
    for position, layer in enumerate(layers):
        if layer.blobs and layer.chunk_size != chunk_size:
            raise UnsupportedError(f"a layer has chunks of {layer.chunk_size} bytes, the image of {chunk_size}")
        overlay.apply(layer.root)
        if last[id(layer)] == position:
            layer.root, layer.prefetch = directory(), []
        for blob in layer.blobs:
            order.setdefault(blob.id, len(order))
    if share_chunks and len(order) > 1:
        share_equal_chunks(overlay.root, order)
    blobs = used_blobs(overlay.root, len(order))
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


def share_equal_chunks(root: Inode, order: Mapping[str, int]) -> None:
    """Point every file at the lowest of the blobs that the tree uses and that hold the same content.

    Args:
        root: changed in place.
        order: position of each blob's layer, by blob id.
    """
    files = [inode for inode in inodes(root) if inode.chunks]
    lowest: dict[bytes, Chunk] = {}
    for inode in files:
        for chunk in inode.chunks:
            best = lowest.setdefault(chunk.digest, chunk)
            if best is not chunk and order[chunk.blob.id] < order[best.blob.id]:
                lowest[chunk.digest] = chunk
    for inode in files:
        inode.chunks = tuple([lowest[chunk.digest] for chunk in inode.chunks])


def used_blobs(root: Inode, known: int) -> list[Blob]:
    """The blobs that files refer to, in order of first use in the tree's order; without the mark of inline bootstraps.

    Args:
        root: the image's.
        known: how many there can be; once all are found, the rest of the tree need not be looked at.
    """
    blobs: dict[str, Blob] = {}
    for _, inode in walk(root):
        if len(blobs) == known:
            break
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
