"""Write a bootstrap: the same bytes that the reference builder lays out for the same tree."""

from __future__ import annotations

import stat

from drivers.nydus.rafs_v6.allocator import Allocator, Place
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.directory import directory_size, encode_directory
from drivers.nydus.rafs_v6.layout import (
    BLOB,
    BLOCK,
    CHUNK,
    CHUNK_FORMAT_INDEXES,
    COMPRESSOR_FLAGS,
    DEVICE,
    DEVICES_OFFSET,
    DIGESTER_FLAGS,
    EXTENDED,
    EXTENDED_OFFSET,
    FEATURE_COMPAT,
    FEATURE_INCOMPAT,
    FILE_TYPES,
    FORMAT_EXTENDED,
    INODE,
    LAYOUT_CHUNKED,
    LAYOUT_INLINE,
    LAYOUT_PLAIN,
    MAGIC,
    MAXIMUM_BLOBS,
    MAXIMUM_SYMLINK,
    ROOT_NID,
    SLOT,
    SUPERBLOCK,
    SUPERBLOCK_OFFSET,
    BlobFeatures,
    Flags,
    align,
)
from drivers.nydus.rafs_v6.tables import encode_blob_table, encode_devices
from drivers.nydus.rafs_v6.xattrs import encode_xattrs
from drivers.nydus.tree import S_IFMT, Chunk, Inode, Mark
from shared.errors import UnsupportedError

MARKS = {Mark.NONE: bytes(16), Mark.IMPLIED: b"ICS implied dir.", Mark.LOWER_LINK: b"ICS link to lower"[:16]}
"""In the inode's reserved bytes, which readers ignore; only in a layer's own bootstrap."""

_Listing = tuple[Inode, Inode, list[bytes], list[bytes]]


class _Encoder:
    def __init__(self, bootstrap: Bootstrap) -> None:
        self.bootstrap = bootstrap
        self.position: dict[Inode, int] = {}
        self.places: dict[Inode, Place] = {}
        self.number: dict[Inode, int] = {}
        self.nlink: dict[Inode, int] = {}
        self.xattrs: dict[Inode, bytes] = {}
        self.listings: list[_Listing] = []
        self.entries = 1
        self.end = self._place()

    def _place(self) -> int:
        """Number every entry and give it a position; returns the metadata area's length without padding."""
        root = self.bootstrap.root
        allocator = Allocator()
        self.number[root] = 1
        pending = [(root, root)]
        while pending:
            inode, parent = pending.pop()
            children = inode.children or {}
            order = sorted(children)
            names = order
            if order and order[0] < b"..":
                names = sorted([*order, b".", b".."])
                size = directory_size(names)
            else:
                names = [b".", b"..", *order]
                size = 12 * len(names) + sum(map(len, names))
                if size > BLOCK:
                    size = directory_size(names)
            place = allocator.with_data(self._inode_size(inode), size)
            self.places[inode] = place
            self.position[inode] = place.inode
            subdirectories = [
                (child, inode) for child in map(children.__getitem__, order) if self._place_child(child, allocator)
            ]
            self.nlink[inode] = 2 + len(subdirectories)
            self.listings.append((inode, parent, names, order))
            pending.extend(reversed(subdirectories))
        return allocator.position

    def _place_child(self, inode: Inode, allocator: Allocator) -> bool:
        """Returns whether it is a directory, which is placed when it is visited."""
        self.entries += 1
        if inode in self.number:
            if inode.children is not None:
                raise UnsupportedError("a directory under two names")
            self.nlink[inode] += 1
            return False
        self.number[inode] = self.entries
        if inode.children is not None:
            return True
        self.nlink[inode] = 1
        inode_size = self._inode_size(inode)
        kind = inode.mode & S_IFMT
        if kind == stat.S_IFREG:
            self.position[inode] = allocator.regular(inode_size, len(inode.chunks))
        elif kind == stat.S_IFLNK:
            if not 0 < len(inode.target) <= MAXIMUM_SYMLINK:
                raise UnsupportedError(f"a symbolic link's target of {len(inode.target)} bytes")
            place = allocator.with_data(inode_size, len(inode.target))
            self.places[inode] = place
            self.position[inode] = place.inode
        else:
            self.position[inode] = allocator.special(inode_size)
        return False

    def _inode_size(self, inode: Inode) -> int:
        if not inode.xattrs:
            return INODE.size
        area = encode_xattrs(inode.xattrs)
        self.xattrs[inode] = area
        return INODE.size + len(area)

    def encode(self) -> bytes:
        bootstrap = self.bootstrap
        blobs = bootstrap.blobs
        if len(blobs) > MAXIMUM_BLOBS:
            raise UnsupportedError(f"{len(blobs)} blobs with data; RAFS v6 can hold {MAXIMUM_BLOBS}")
        prefetch = bootstrap.prefetch if blobs else []
        blob_table = align(DEVICES_OFFSET + DEVICE.size * len(blobs), BLOCK)
        prefetch_table = blob_table + BLOB.size * len(blobs)
        meta = align(prefetch_table + 4 * len(prefetch), BLOCK) if blobs else 0
        chunk_table = align(meta + self.end, BLOCK)

        indexes, records = self._chunks()
        size = align(chunk_table + len(records), BLOCK)
        file = bytearray(size)
        devices, blocks = encode_devices(blobs, size)
        self._superblock(file, meta=meta, blocks=blocks)
        self._extended(
            file,
            blob_table=blob_table,
            chunk_table=chunk_table,
            chunk_bytes=len(records),
            prefetch_table=prefetch_table if prefetch else 0,
            prefetch_bytes=4 * len(prefetch),
        )
        file[DEVICES_OFFSET : DEVICES_OFFSET + len(devices)] = devices
        table = encode_blob_table(blobs)
        file[blob_table : blob_table + len(table)] = table
        for slot, inode in enumerate(prefetch):
            at = prefetch_table + 4 * slot
            file[at : at + 4] = (self.position[inode] // SLOT).to_bytes(4, "little")
        self._metadata(file, meta, indexes)
        file[chunk_table : chunk_table + len(records)] = records
        return bytes(file)

    def _chunks(self) -> tuple[dict[Chunk, bytes], bytes]:
        """The 8-byte index of every chunk that the tree uses, and the chunk table sorted by digest and blob."""
        number = {blob.id: index for index, blob in enumerate(self.bootstrap.blobs)}
        indexes: dict[Chunk, bytes] = {}
        records: dict[tuple[bytes, int, int], bytes] = {}
        for inode in self.number:
            for chunk in inode.chunks:
                if chunk in indexes:
                    continue
                blob = number[chunk.blob.id]
                value = (
                    (chunk.index & 0xFFFF)
                    | ((chunk.index >> 16) << 8 | (blob + 1)) << 16
                    | (chunk.uncompressed_offset // BLOCK) << 32
                )
                indexes[chunk] = value.to_bytes(8, "little")
                records[chunk.digest, blob, chunk.index] = CHUNK.pack(
                    chunk.digest,
                    blob,
                    chunk.flags,
                    chunk.compressed_size,
                    chunk.uncompressed_size,
                    chunk.compressed_offset,
                    chunk.uncompressed_offset,
                    chunk.file_offset,
                    chunk.index,
                    chunk.crc32,
                )
        return indexes, b"".join([records[key] for key in sorted(records)])

    def _superblock(self, file: bytearray, *, meta: int, blocks: int) -> None:
        SUPERBLOCK.pack_into(
            file,
            SUPERBLOCK_OFFSET,
            MAGIC,
            0,
            FEATURE_COMPAT,
            12,
            0,
            ROOT_NID,
            self.entries,
            0,
            0,
            blocks,
            meta // BLOCK,
            0,
            b"",
            b"",
            FEATURE_INCOMPAT,
            0,
            len(self.bootstrap.blobs),
            DEVICES_OFFSET // DEVICE.size,
            b"",
        )

    def _extended(
        self,
        file: bytearray,
        *,
        blob_table: int,
        chunk_table: int,
        chunk_bytes: int,
        prefetch_table: int,
        prefetch_bytes: int,
    ) -> None:
        bootstrap = self.bootstrap
        flags = (
            COMPRESSOR_FLAGS[bootstrap.compressor]
            | DIGESTER_FLAGS[bootstrap.digester]
            | Flags.EXPLICIT_UID_GID
            | bootstrap.extra_flags
        )
        if all(blob.features & BlobFeatures.INLINED_CHUNK_DIGEST for blob in bootstrap.blobs):
            flags |= Flags.INLINED_CHUNK_DIGEST
        EXTENDED.pack_into(
            file,
            EXTENDED_OFFSET,
            flags,
            blob_table,
            BLOB.size * len(bootstrap.blobs),
            bootstrap.chunk_size,
            chunk_table,
            chunk_bytes,
            prefetch_table,
            prefetch_bytes,
            0,
            b"",
        )

    def _metadata(self, file: bytearray, meta: int, indexes: dict[Chunk, bytes]) -> None:
        for inode, parent, names, order in self.listings:
            self._write_directory(file, meta, inode, parent, names)
            children = inode.children or {}
            for name in order:
                child = children[name]
                if child.children is None:
                    self._write_child(file, meta, child, indexes)

    def _write_directory(self, file: bytearray, meta: int, inode: Inode, parent: Inode, names: list[bytes]) -> None:
        children = inode.children or {}
        position = self.position
        entries = []
        for name in names:
            child = children.get(name)
            if child is None:
                child = inode if name == b"." else parent
            entries.append((name, position[child] // SLOT, FILE_TYPES[child.mode & S_IFMT]))
        self._write_with_data(file, meta, inode, encode_directory(entries))

    def _write_child(self, file: bytearray, meta: int, inode: Inode, indexes: dict[Chunk, bytes]) -> None:
        at = self.position[inode] + meta
        kind = inode.mode & S_IFMT
        if kind == stat.S_IFLNK:
            self._write_with_data(file, meta, inode, inode.target)
        elif kind == stat.S_IFREG:
            chunks = inode.chunks
            union = _chunk_format(self.bootstrap, inode)
            self._write_inode(file, at, inode, layout=LAYOUT_CHUNKED, size=inode.size, union=union)
            if chunks:
                start = align(at + INODE.size + len(self.xattrs.get(inode, b"")), 8)
                file[start : start + 8 * len(chunks)] = b"".join([indexes[chunk] for chunk in chunks])
        else:
            self._write_inode(file, at, inode, layout=LAYOUT_PLAIN, size=0, union=inode.rdev)

    def _write_with_data(self, file: bytearray, meta: int, inode: Inode, data: bytes) -> None:
        place = self.places[inode]
        at = place.inode + meta
        start = place.data + meta
        self._write_inode(file, at, inode, layout=place.layout, size=len(data), union=start // BLOCK)
        full = len(data)
        if place.layout == LAYOUT_INLINE:
            full -= len(data) % BLOCK
            tail_at = at + INODE.size + len(self.xattrs.get(inode, b""))
            file[tail_at : tail_at + len(data) - full] = data[full:]
        file[start : start + full] = data[:full]

    def _write_inode(self, file: bytearray, at: int, inode: Inode, *, layout: int, size: int, union: int) -> None:
        xattrs = self.xattrs.get(inode, b"")
        INODE.pack_into(
            file,
            at,
            FORMAT_EXTENDED | layout << 1,
            (len(xattrs) - 12) // 4 + 1 if xattrs else 0,
            inode.mode,
            0,
            size,
            union,
            self.number[inode],
            inode.uid,
            inode.gid,
            max(inode.mtime, 0),
            inode.mtime_ns,
            self.nlink[inode],
            MARKS[inode.mark],
        )
        if xattrs:
            file[at + INODE.size : at + INODE.size + len(xattrs)] = xattrs


def _chunk_format(bootstrap: Bootstrap, inode: Inode) -> int:
    """Contiguous chunks are one large chunk to the kernel, which then shares page cache and reads one index."""
    size = bootstrap.chunk_size
    chunks = inode.chunks
    if inode.size > size:
        first = chunks[0]
        expected = first.uncompressed_offset
        for chunk in chunks:
            if chunk.uncompressed_offset != expected or chunk.blob is not first.blob:
                break
            expected += size
        else:
            size = 1 << (inode.size - 1).bit_length()
    return CHUNK_FORMAT_INDEXES | (size.bit_length() - 13)


def encode_bootstrap(bootstrap: Bootstrap) -> bytes:
    """Serialise (RAFS v6). Equal trees give equal bytes.

    Raises:
        UnsupportedError: the tree is more than the format holds (blobs, symbolic links, attributes).
    """
    return _Encoder(bootstrap).encode()
