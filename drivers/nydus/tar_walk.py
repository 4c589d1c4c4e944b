"""A source layer, inflated and walked entry by entry in a thread of its own."""

from __future__ import annotations

import logging
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

from drivers.api import Content
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.nydus.feed import ByteFeed, feeding
from drivers.nydus.layer_tree import LayerTree
from drivers.nydus.pipeline import ChunkSink, Walk
from drivers.nydus.rafs_v6.layout import MAXIMUM_SYMLINK
from drivers.nydus.rafs_v6.xattrs import is_storable
from drivers.nydus.tree import Inode
from drivers.tar import TarEntry, TarParser
from drivers.tar.entry import (
    BLOCK,
    CHARACTER,
    CONTIGUOUS,
    DIRECTORY,
    FIFO,
    GLOBAL_PAX,
    HARD_LINK,
    REGULAR,
    SPARSE,
    SYMLINK,
)
from drivers.tar.sparse import SparseContent, SparseMap
from shared.errors import CorruptLayerError, UnsupportedError
from shared.oci.descriptor import Descriptor

_log = logging.getLogger(__name__)

_DEVICES: Final = (CHARACTER, BLOCK)
_MAXIMUM_OWNER: Final = 0xFFFFFFFF
_KINDS: Final = {
    REGULAR: stat.S_IFREG,
    CONTIGUOUS: stat.S_IFREG,
    SPARSE: stat.S_IFREG,
    DIRECTORY: stat.S_IFDIR,
    SYMLINK: stat.S_IFLNK,
    CHARACTER: stat.S_IFCHR,
    BLOCK: stat.S_IFBLK,
    FIFO: stat.S_IFIFO,
}


@asynccontextmanager
async def open_walk(layer: Descriptor, content: Content, limits: LayerLimits, chunk_size: int) -> AsyncIterator[Walk]:
    """What :meth:`LayerPipeline.run` runs; the source is open until the context ends, and read to its verified end."""
    async with _feed(layer, content) as feed:

        def run(sink: ChunkSink) -> Inode:
            return TarWalker(sink.put, chunk_size).walk(inflate(feed.read(), limits), limits)

        yield Walk(run, feed.close)


@asynccontextmanager
async def open_inflated(layer: Descriptor, content: Content, limits: LayerLimits) -> AsyncIterator[Iterator[bytes]]:
    """The plain tar as blocking reads, for a thread."""
    async with _feed(layer, content) as feed:
        yield inflate(feed.read(), limits)


@asynccontextmanager
async def _feed(layer: Descriptor, content: Content) -> AsyncIterator[ByteFeed]:
    async with content.open(layer) as pieces, feeding(pieces) as feed:
        yield feed


def inflate(pieces: Iterator[bytes], limits: LayerLimits) -> Iterator[bytes]:
    """Plain bytes of a compressed layer, in a thread."""
    inflater = Inflater(limits)
    for piece in pieces:
        yield from inflater.feed(piece)
    yield from inflater.finish()


class TarWalker:
    """Tar entries into a tree; file content, in chunks, to ``put``.

    Args:
        put: takes a file and its next chunk.
        chunk_size: in bytes.
        sparse: whether to take files whose content, for its holes, does not lie in the tar as it is.
    """

    def __init__(self, put: Callable[[Inode, bytes], None], chunk_size: int, *, sparse: bool = True) -> None:
        self._put = put
        self._chunk_size = chunk_size
        self._take_sparse = sparse
        self.content_at = 0
        """Where the present file's content begins in the tar, in bytes."""
        self._tree = LayerTree()
        self._inode: Inode | None = None
        self._sparse: SparseContent | None = None
        self._left = 0
        self._parts: list[memoryview] = []
        self._have = 0
        self._skipped_xattrs = 0

    def walk(self, pieces: Iterator[bytes], limits: LayerLimits) -> Inode:
        """Raises CorruptLayerError, LimitExceededError, UnsupportedError."""
        parser = TarParser(limits)
        for piece in pieces:
            for event in parser.feed(piece):
                if isinstance(event, TarEntry):
                    self._entry(event)
                elif self._sparse is None:
                    self._content(event)
                else:
                    self._sparse_content(self._sparse, event)
            # The views of this piece end here, so that no more than one chunk and one piece are ever held.
            self._parts = [memoryview(b"".join(self._parts))] if self._parts else []
        parser.finish()
        if self._skipped_xattrs:
            _log.warning("attributes that EROFS cannot hold were left out", extra={"attributes": self._skipped_xattrs})
        return self._tree.root

    def _entry(self, entry: TarEntry) -> None:
        kind = entry.type
        form = _KINDS.get(kind)
        if form is None:
            self._without_inode(entry)
            return
        uid, gid = entry.uid, entry.gid
        if not (0 <= uid <= _MAXIMUM_OWNER and 0 <= gid <= _MAXIMUM_OWNER):
            raise CorruptLayerError(f"{entry.name[:200]!r} has the owner {uid}:{gid}")
        inode = Inode(form | entry.mode & 0o7777, uid, gid, entry.mtime, entry.mtime_nsec)
        if entry.xattrs:
            inode.xattrs = self._xattrs(entry)
        self._inode = None
        if form == stat.S_IFREG:
            inode.size = self._left = entry.size
            self._inode = inode
            self.content_at = entry.offset + len(entry.raw)
            self._sparse = None
            if entry.sparse is not None:
                self._begin_sparse(entry, entry.sparse, inode)
        elif form == stat.S_IFLNK:
            inode.target = _bytes(entry.link)
            if not 0 < len(inode.target) <= MAXIMUM_SYMLINK:
                raise CorruptLayerError(f"{entry.name[:200]!r} is a symbolic link to {len(inode.target)} bytes")
        elif kind in _DEVICES:
            inode.rdev = _device(entry.major, entry.minor)
        self._tree.add(_bytes(entry.name), inode)

    def _begin_sparse(self, entry: TarEntry, sparse: SparseMap, inode: Inode) -> None:
        if not self._take_sparse:
            raise UnsupportedError(
                f"{entry.name[:200]!r} is stored as a sparse file, which oci_ref cannot refer to: convert without it"
            )
        inode.size = self._left = sparse.size
        self._sparse = SparseContent(sparse)
        self._sparse_content(self._sparse, memoryview(b""))

    def _sparse_content(self, sparse: SparseContent, stored: memoryview) -> None:
        for view in sparse.feed(stored):
            self._content(view)

    def _without_inode(self, entry: TarEntry) -> None:
        self._inode = None
        if entry.type == HARD_LINK:
            self._tree.link(_bytes(entry.name), _bytes(entry.link))
        elif entry.type != GLOBAL_PAX:
            raise UnsupportedError(f"{entry.name[:200]!r} has the unknown tar type {entry.type!r}")

    def _xattrs(self, entry: TarEntry) -> tuple[tuple[bytes, bytes], ...]:
        found = sorted((_bytes(key), value) for key, value in entry.xattrs.items())
        kept = tuple((key, value) for key, value in found if is_storable(key, value))
        self._skipped_xattrs += len(found) - len(kept)
        return kept

    def _content(self, view: memoryview) -> None:
        inode = self._inode
        if inode is None:
            return  # the payload of an entry that cannot have one
        size = len(view)
        if not self._have and size == self._left <= self._chunk_size:
            self._left = 0
            self._put(inode, bytes(view))
            return
        while size:
            taken = min(size, self._chunk_size - self._have)
            self._parts.append(view[:taken])
            self._have += taken
            self._left -= taken
            view = view[taken:]
            size -= taken
            if self._have == self._chunk_size or not self._left:
                chunk = b"".join(self._parts)
                self._parts = []
                self._have = 0
                self._put(inode, chunk)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _device(major: int, minor: int) -> int:
    """As Linux's ``new_encode_dev``."""
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12
