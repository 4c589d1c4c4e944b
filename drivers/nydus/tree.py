"""The file tree of a layer or an image, as a bootstrap describes it.

Names live in their directory and attributes in an :class:`Inode`, so that a hard link is one inode under several names,
and removing a name never touches the others.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from shared.errors import UnsupportedError

S_IFMT: Final = 0o170000
S_IFDIR: Final = stat.S_IFDIR
MAXIMUM_PATH: Final = 4095
"""Bytes; the kernel takes no longer one."""


class Mark(IntEnum):
    """What a layer's bootstrap must remember for the overlay, and an image's bootstrap never has."""

    NONE = 0
    IMPLIED = 1
    """A directory that the tar only implied: it never overwrites a lower layer's attributes."""
    LOWER_LINK = 2
    """A hard link to a path that is not in this layer; ``target`` is that path."""


class Blob:
    """One blob's record (nydus ``BlobInfo``); identity is ``id``, 64 hex digits.

    Sizes and offsets in bytes. ``ci_*`` describe the chunk-info array inside the blob.
    """

    __slots__ = (
        "chunk_count",
        "chunk_size",
        "ci_compressed_size",
        "ci_compressor",
        "ci_offset",
        "ci_uncompressed_size",
        "compressed_size",
        "compressor",
        "digester",
        "features",
        "id",
        "meta_digest",
        "meta_size",
        "toc_digest",
        "toc_size",
        "uncompressed_size",
    )

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the format's own word
        chunk_size: int,
        chunk_count: int,
        compressor: int,
        digester: int,
        features: int,
        compressed_size: int,
        uncompressed_size: int,
        ci_compressor: int,
        ci_offset: int,
        ci_compressed_size: int,
        ci_uncompressed_size: int,
        toc_size: int = 0,
        toc_digest: bytes = bytes(32),
        meta_digest: bytes = bytes(32),
        meta_size: int = 0,
    ) -> None:
        self.id = id
        self.chunk_size = chunk_size
        self.chunk_count = chunk_count
        self.compressor = compressor
        self.digester = digester
        self.features = features
        self.compressed_size = compressed_size
        self.uncompressed_size = uncompressed_size
        self.ci_compressor = ci_compressor
        self.ci_offset = ci_offset
        self.ci_compressed_size = ci_compressed_size
        self.ci_uncompressed_size = ci_uncompressed_size
        self.toc_size = toc_size
        self.toc_digest = toc_digest
        self.meta_digest = meta_digest
        self.meta_size = meta_size


class Chunk:
    """A piece of file content in a blob. Offsets and sizes in bytes; ``uncompressed_offset`` is a multiple of 4096."""

    __slots__ = (
        "blob",
        "compressed_offset",
        "compressed_size",
        "crc32",
        "digest",
        "file_offset",
        "flags",
        "index",
        "uncompressed_offset",
        "uncompressed_size",
    )

    def __init__(  # noqa: PLR0917 - the record's own order; made once per chunk
        self,
        blob: Blob,
        index: int,
        digest: bytes,
        flags: int,
        compressed_size: int,
        uncompressed_size: int,
        compressed_offset: int,
        uncompressed_offset: int,
        file_offset: int,
        crc32: int = 0,
    ) -> None:
        self.blob = blob
        self.index = index
        self.digest = digest
        self.flags = flags
        self.compressed_size = compressed_size
        self.uncompressed_size = uncompressed_size
        self.compressed_offset = compressed_offset
        self.uncompressed_offset = uncompressed_offset
        self.file_offset = file_offset
        self.crc32 = crc32


class Inode:
    """One file of any type. ``children`` is set for directories only; ``xattrs`` are sorted by full key."""

    __slots__ = (
        "children",
        "chunks",
        "gid",
        "mark",
        "mode",
        "mtime",
        "mtime_ns",
        "rdev",
        "size",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(  # noqa: PLR0917 - made once per file
        self,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
        mtime_ns: int = 0,
        size: int = 0,
        rdev: int = 0,
        target: bytes = b"",
        xattrs: tuple[tuple[bytes, bytes], ...] = (),
        chunks: tuple[Chunk, ...] = (),
        mark: Mark = Mark.NONE,
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.mtime_ns = mtime_ns
        self.size = size
        self.rdev = rdev
        self.target = target
        self.xattrs = xattrs
        self.chunks = chunks
        self.mark = mark
        self.children: dict[bytes, Inode] | None = {} if mode & S_IFMT == S_IFDIR else None

    @property
    def is_symlink(self) -> bool:
        return self.mode & S_IFMT == stat.S_IFLNK


def directory(mode: int = 0o755, *, mark: Mark = Mark.NONE) -> Inode:
    """An empty directory owned by root with mtime 0."""
    return Inode(stat.S_IFDIR | mode, mark=mark)


def walk(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Every entry below ``root`` with its path (no leading slash), parents first, names in byte order.

    Raises:
        UnsupportedError: a directory with a longer path than the kernel takes: all paths together would fill the memory.
    """
    pending: list[tuple[bytes, Inode]] = [(b"", root)]
    while pending:
        prefix, parent = pending.pop()
        if len(prefix) > MAXIMUM_PATH:
            raise UnsupportedError(f"a directory with a path of {len(prefix)} bytes")
        subdirectories = []
        children = parent.children or {}
        for name in sorted(children):
            inode = children[name]
            path = prefix + name
            yield path, inode
            if inode.children is not None:
                subdirectories.append((path + b"/", inode))
        pending.extend(reversed(subdirectories))


def inodes(root: Inode) -> Iterator[Inode]:
    """Every entry below ``root``, in no particular order: faster than :func:`walk` where names do not matter."""
    pending = [root]
    while pending:
        for inode in (pending.pop().children or {}).values():
            if inode.children is not None:
                pending.append(inode)
            yield inode


def file_chunks(root: Inode) -> Iterator[Chunk]:
    """Every chunk of every file, in no particular order; a shared one as often as it is used."""
    return (chunk for inode in inodes(root) for chunk in inode.chunks)
