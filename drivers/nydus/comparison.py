"""Entry by entry: the tree of a Nydus image against the layers that it came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drivers.limits import LayerLimits
from drivers.nydus.compression import digest
from drivers.nydus.overlay import Overlay
from drivers.nydus.rafs_v6.layout import Digester
from drivers.nydus.tar_walk import TarWalker, inflate
from drivers.nydus.tree import Inode, walk

Pieces = list[tuple[bytes, int]]
"""Digest and size of each chunk of a file."""

_FIELDS = ("mode", "uid", "gid", "mtime", "mtime_ns", "size", "rdev", "target", "xattrs")


class SourceTree:
    """The source's layers on top of each other, file contents as the digests of their chunks."""

    def __init__(self, chunk_size: int, digester: Digester) -> None:
        self._chunk_size = chunk_size
        self._digester = digester
        self._overlay = Overlay()
        self._pieces: dict[Inode, Pieces] = {}

    @property
    def root(self) -> Inode:
        return self._overlay.root

    def apply(self, compressed: Iterator[bytes], limits: LayerLimits) -> None:
        """The next layer, lowest first. Blocking; for a thread.

        Raises:
            CorruptLayerError, LimitExceededError, UnsupportedError: of the layer.
        """
        walker = TarWalker(self._put, self._chunk_size)
        self._overlay.apply(walker.walk(inflate(compressed, limits), limits))

    def _put(self, inode: Inode, chunk: bytes) -> None:
        self._pieces.setdefault(inode, []).append((digest(chunk, self._digester), len(chunk)))

    def pieces(self, inode: Inode) -> Pieces:
        return self._pieces.get(inode, [])

    def entries(self) -> int:
        return sum(1 for _ in walk(self.root))


def compare_trees(source: SourceTree, image: Inode) -> Iterator[tuple[bytes, str]]:
    """``(path, what differs)`` for every entry that is not the same: type, attributes, content, hard links."""
    expected = {b"": source.root, **dict(walk(source.root))}
    found = {b"": image, **dict(walk(image))}
    first_expected: dict[Inode, bytes] = {}
    first_found: dict[Inode, bytes] = {}
    for path, original in expected.items():
        converted = found.get(path)
        if converted is None:
            yield path, "is missing"
            continue
        for field in _FIELDS:
            mine, theirs = getattr(converted, field), getattr(original, field)
            if mine != theirs:
                yield path, f"{field} is {_show(field, mine)}, the source has {_show(field, theirs)}"
        pieces = [(chunk.digest, chunk.uncompressed_size) for chunk in converted.chunks]
        if pieces != source.pieces(original):
            yield path, "the content differs"
        if first_found.setdefault(converted, path) != first_expected.setdefault(original, path):
            yield path, "is a hard link of another file than in the source"
    for path in sorted(found.keys() - expected.keys()):
        yield path, "is not in the source"


def _show(field: str, value: Any) -> str:
    return oct(value) if field == "mode" else repr(value)[:200]
