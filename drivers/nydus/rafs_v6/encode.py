"""Write a bootstrap: the same bytes that the reference builder lays out for the same tree.

One walk in the reference's order places every inode and writes it; what needs positions that are not known yet (directory
entries, the link counts of hard-linked files) follows. Images have hundreds of thousands of files, so the walk keeps the
work per file small.
"""

from __future__ import annotations

import stat
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from struct import Struct
from typing import Final, NamedTuple

from drivers.nydus.rafs_v6.allocator import Allocator
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.chunk_table import encode_chunk_table
from drivers.nydus.rafs_v6.directory import directory_size, encode_directory
from drivers.nydus.rafs_v6.file_chunks import chunk_format, joined_format
from drivers.nydus.rafs_v6.layout import (
    BLOB,
    BLOCK,
    DEVICE,
    DEVICES_OFFSET,
    FILE_TYPES,
    FORMAT_EXTENDED,
    INODE,
    LAYOUT_CHUNKED,
    LAYOUT_INLINE,
    LAYOUT_PLAIN,
    MAXIMUM_BLOBS,
    MAXIMUM_SYMLINK,
    PLAIN,
    SLOT,
    align,
    chunk_index,
)
from drivers.nydus.rafs_v6.tables import encode_blob_table, encode_devices, encode_extended, encode_superblock
from drivers.nydus.rafs_v6.xattrs import encode_xattrs
from drivers.nydus.tree import MAXIMUM_PATH, S_IFMT, Chunk, Inode
from shared.errors import UnsupportedError

MARKS: Final = (bytes(16), b"ICS implied dir.", b"ICS link to lowe")
"""By :class:`~drivers.nydus.tree.Mark`: in the inode's reserved bytes, which readers ignore; only in a layer's own bootstrap."""

_GROWTH: Final = 16 << 20
"""Of the file at work. Pages that are not written to take no memory, and none stays behind in the process when it is done."""
_NLINK_OFFSET: Final = 44
_DOTS: Final = (b".", b"..")
_REGULAR: Final = stat.S_IFREG
_CHUNKED: Final = FORMAT_EXTENDED | LAYOUT_CHUNKED << 1
_pack_index: Final = Struct("<Q").pack_into
_pack_inode: Final = INODE.pack_into
_pack_plain: Final = PLAIN.pack_into


class _Listing(NamedTuple):
    """A directory whose data waits for its children's positions. ``data`` is where the full blocks begin."""

    names: list[bytes]
    inodes: list[Inode]
    tail: int
    data: int
    layout: int


class _Encoder:
    def __init__(self, bootstrap: Bootstrap) -> None:
        self.bootstrap = bootstrap
        self.blob_number = {blob.id: number for number, blob in enumerate(bootstrap.blobs)}
        count = len(bootstrap.blobs)
        self.prefetch = bootstrap.prefetch if count else []
        self.blob_table = align(DEVICES_OFFSET + DEVICE.size * count, BLOCK)
        self.prefetch_table = self.blob_table + BLOB.size * count
        self.meta = align(self.prefetch_table + 4 * len(self.prefetch), BLOCK) if count else 0
        self.chunk_size = bootstrap.chunk_size
        self.chunk_format = chunk_format(bootstrap.chunk_size)
        self.allocator = Allocator()
        self.file = mmap(-1, self.meta + _GROWTH, flags=MAP_PRIVATE | MAP_ANONYMOUS)
        self.position: dict[Inode, int] = {}
        """Of every placed inode, from the metadata area's start."""
        self.more_names: dict[Inode, int] = {}
        self.chunks: dict[int, Chunk] = {}
        """By the index that files refer to them by; a chunk of two equal layers has one."""
        self.listings: list[_Listing] = []
        self.entries = 1

    def encode(self) -> bytes:
        self._place_tree()
        for listing in self.listings:
            self._write_listing(listing)
        self.listings.clear()
        for inode, more in self.more_names.items():
            at = self.meta + self.position[inode] + _NLINK_OFFSET
            self.file[at : at + 4] = (1 + more).to_bytes(4, "little")
        return self._with_tables()

    def _place_tree(self) -> None:
        """Every directory, then its other files, then its subdirectories; names in byte order."""
        root = self.bootstrap.root
        pending = [(root, root, 1, 0)]
        while pending:
            inode, parent, number, path_length = pending.pop()
            if path_length > MAXIMUM_PATH:
                raise UnsupportedError(f"a directory with a path of {path_length} bytes")
            members = {**(inode.children or {}), b".": inode, b"..": parent}
            names = sorted(members)
            listed = [members[name] for name in names]
            size = 12 * len(names) + sum(map(len, names))
            if size > BLOCK:
                size = directory_size(names)
            xattrs = encode_xattrs(inode.xattrs)
            place = self.allocator.with_data(INODE.size + len(xattrs), size)
            self.position[inode] = place.inode
            subdirectories = []
            for name, child in zip(names, listed, strict=True):
                if name in _DOTS:
                    continue
                self.entries += 1
                if child.children is not None:
                    subdirectories.append((child, inode, self.entries, path_length + len(name) + 1))
                elif child in self.position:
                    self.more_names[child] = self.more_names.get(child, 0) + 1
                elif child.mode & S_IFMT == _REGULAR:
                    self._place_regular(child, self.entries)
                else:
                    self._place_other(child, self.entries)
            pending.extend(reversed(subdirectories))
            data = self.meta + place.data
            self._write_inode(
                self.meta + place.inode,
                inode,
                xattrs,
                FORMAT_EXTENDED | place.layout << 1,
                size,
                data // BLOCK,
                number,
                2 + len(subdirectories),
            )
            tail = self.meta + place.inode + INODE.size + len(xattrs)
            self.listings.append(_Listing(names, listed, tail, data, place.layout))

    def _place_regular(self, inode: Inode, number: int) -> None:
        """A regular file, under its first name."""
        chunks = inode.chunks
        if len(chunks) == 1 and not inode.xattrs:
            self._place_plain(inode, number, chunks[0])
            return
        xattrs = encode_xattrs(inode.xattrs)
        inode_size = INODE.size + len(xattrs)
        position = self.position[inode] = self.allocator.regular(inode_size, len(chunks))
        at = self.meta + position
        union = self.chunk_format if inode.size <= self.chunk_size else joined_format(self.chunk_size, inode)
        self._write_inode(at, inode, xattrs, _CHUNKED, inode.size, union, number, 1)
        at = at + inode_size + 7 & -8
        if at + 8 * len(chunks) > len(self.file):
            self._grow(at + 8 * len(chunks))
        for chunk in chunks:
            index = chunk_index(self.blob_number[chunk.blob.id], chunk.index, chunk.uncompressed_offset)
            self.chunks[index] = chunk
            _pack_index(self.file, at, index)
            at += 8

    def _place_plain(self, inode: Inode, number: int, chunk: Chunk) -> None:
        """A regular file with one chunk and no attributes, as most are: inode and index in one piece, for speed."""
        position = self.position[inode] = self.allocator.regular(INODE.size, 1)
        at = self.meta + position
        if at + PLAIN.size > len(self.file):
            self._grow(at + PLAIN.size)
        index = chunk_index(self.blob_number[chunk.blob.id], chunk.index, chunk.uncompressed_offset)
        self.chunks[index] = chunk
        _pack_plain(
            self.file,
            at,
            _CHUNKED,
            0,
            inode.mode,
            0,
            inode.size,
            self.chunk_format,
            number,
            inode.uid,
            inode.gid,
            inode.mtime,
            inode.mtime_ns,
            1,
            MARKS[inode.mark],
            index,
        )

    def _place_other(self, inode: Inode, number: int) -> None:
        """A symbolic link or special file, under its first name."""
        xattrs = encode_xattrs(inode.xattrs)
        inode_size = INODE.size + len(xattrs)
        if inode.is_symlink:
            target = inode.target
            if not 0 < len(target) <= MAXIMUM_SYMLINK:
                raise UnsupportedError(f"a symbolic link's target of {len(target)} bytes")
            place = self.allocator.with_data(inode_size, len(target))
            position = place.inode
            at = self.meta + position
            data = self.meta + place.data
            form = FORMAT_EXTENDED | place.layout << 1
            self._write_inode(at, inode, xattrs, form, len(target), data // BLOCK, number, 1)
            self._write_data(at + inode_size, data, place.layout, target)
        else:
            position = self.allocator.special(inode_size)
            form = FORMAT_EXTENDED | LAYOUT_PLAIN << 1
            self._write_inode(self.meta + position, inode, xattrs, form, 0, inode.rdev, number, 1)
        self.position[inode] = position

    def _write_listing(self, listing: _Listing) -> None:
        names, inodes, tail, start, layout = listing
        nids = [position // SLOT for position in map(self.position.__getitem__, inodes)]
        kinds = [FILE_TYPES[inode.mode & S_IFMT] for inode in inodes]
        self._write_data(tail, start, layout, encode_directory(names, nids, kinds))

    def _write_data(self, tail: int, start: int, layout: int, data: bytes) -> None:
        """``tail`` is where the last, partial block goes if it lies behind its inode."""
        full = len(data)
        if layout == LAYOUT_INLINE:
            full -= len(data) % BLOCK
            end = tail + len(data) - full
            self._grow(end)
            self.file[tail:end] = data[full:]
        if full:
            self._grow(start + full)
            self.file[start : start + full] = data[:full]

    def _write_inode(  # noqa: PLR0917 - called once per file
        self, at: int, inode: Inode, xattrs: bytes, form: int, size: int, union: int, number: int, nlink: int
    ) -> None:
        end = at + INODE.size
        if end + len(xattrs) > len(self.file):
            self._grow(end + len(xattrs))
        _pack_inode(
            self.file,
            at,
            form,
            (len(xattrs) - 12) // 4 + 1 if xattrs else 0,
            inode.mode,
            0,
            size,
            union,
            number,
            inode.uid,
            inode.gid,
            inode.mtime,
            inode.mtime_ns,
            nlink,
            MARKS[inode.mark],
        )
        if xattrs:
            self.file[end : end + len(xattrs)] = xattrs

    def _grow(self, end: int) -> None:
        if end > len(self.file):
            self.file.resize(end + _GROWTH)

    def _with_tables(self) -> bytes:
        bootstrap = self.bootstrap
        file = self.file
        records = encode_chunk_table(self.chunks.values(), self.blob_number)
        self.chunks.clear()
        chunk_table = align(self.meta + self.allocator.position, BLOCK)
        size = align(chunk_table + len(records), BLOCK)
        self._grow(size)
        file[chunk_table : chunk_table + len(records)] = records
        chunk_bytes = len(records)
        del records
        devices, blocks = encode_devices(bootstrap.blobs, size)
        encode_superblock(file, bootstrap, entries=self.entries, meta=self.meta, blocks=blocks)
        encode_extended(
            file,
            bootstrap,
            blob_table=self.blob_table,
            chunk_table=chunk_table,
            chunk_bytes=chunk_bytes,
            prefetch_table=self.prefetch_table if self.prefetch else 0,
            prefetch_bytes=4 * len(self.prefetch),
        )
        file[DEVICES_OFFSET : DEVICES_OFFSET + len(devices)] = devices
        table = encode_blob_table(bootstrap.blobs)
        file[self.blob_table : self.blob_table + len(table)] = table
        for slot, inode in enumerate(self.prefetch):
            at = self.prefetch_table + 4 * slot
            file[at : at + 4] = (self.position[inode] // SLOT).to_bytes(4, "little")
        self.position.clear()
        with file:
            return file[:size]


def encode_bootstrap(bootstrap: Bootstrap) -> bytes:
    """Serialise (RAFS v6). Equal trees give equal bytes.

    Raises:
        UnsupportedError: the tree is more than the format holds (blobs, symbolic links, attributes) or than a path can reach.
    """
    if len(bootstrap.blobs) > MAXIMUM_BLOBS:
        raise UnsupportedError(f"{len(bootstrap.blobs)} blobs with data; RAFS v6 can hold {MAXIMUM_BLOBS}")
    return _Encoder(bootstrap).encode()
