"""Read a bootstrap into a tree, refusing everything that a reader of the format would refuse.

Decoding *is* the structural validation: whatever comes back from :func:`decode_bootstrap` obeys the rules that ``nydusd``
and the kernel rely on. :func:`check_bootstrap` runs it for its checks alone.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Sequence
from typing import Final

from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.chunk_table import decode_chunk_table
from drivers.nydus.rafs_v6.directory import decode_directory
from drivers.nydus.rafs_v6.encode import MARKS
from drivers.nydus.rafs_v6.file_chunks import decode_file_chunks
from drivers.nydus.rafs_v6.layout import (
    BLOCK,
    COMPACT_INODE,
    FILE_TYPES,
    INODE,
    LAYOUT_CHUNKED,
    LAYOUT_INLINE,
    LAYOUT_PLAIN,
    MAXIMUM_SYMLINK,
    PLAIN,
    SLOT,
    SUPERBLOCK,
    SUPERBLOCK_OFFSET,
    BlobFeatures,
)
from drivers.nydus.rafs_v6.plain_files import PlainFiles
from drivers.nydus.rafs_v6.superblock import Header, decode_header
from drivers.nydus.rafs_v6.xattrs import area_size, decode_xattrs
from drivers.nydus.tree import S_IFMT, Blob, Chunk, Inode, Mark

_MARK_OF_BYTES: Final = {MARKS[mark]: mark for mark in Mark}
_NO_MARK: Final = MARKS[Mark.NONE]
_NANOSECONDS: Final = 1_000_000_000
_REGULAR: Final = stat.S_IFREG
_DEVICES: Final = (stat.S_IFCHR, stat.S_IFBLK)
_DOTS: Final = (b".", b"..")


class _Decoder:
    def __init__(self, data: bytes, header: Header, *, keep: bool) -> None:
        self.data = data
        self.header = header
        self.keep = keep
        """Whether the tree is wanted, or only the checks."""
        self.chunks: dict[int, Chunk] = decode_chunk_table(data, header)
        self.plain = PlainFiles(data, header, self.chunks)
        self.inodes: dict[int, Inode] = {}
        self.nlinks: dict[int, int] = {}
        """Of directories, and of files that say another number than 1."""
        self.names: dict[int, int] = {}
        """Of files with more than one."""
        self.entries = 1
        self.left = len(data)
        """Bytes that inodes and what belongs to them have not taken yet: no two may share any, which bounds the work."""

    def decode(self) -> Inode:
        root_nid = SUPERBLOCK.unpack_from(self.data, SUPERBLOCK_OFFSET)[5]
        root, content = self._inode(root_nid, b"/")
        require(root.children is not None, "superblock.root_nid", "is not a directory")
        pending = [(root_nid, root, content, root_nid)]
        while pending:
            nid, inode, data, parent_nid = pending.pop()
            self._directory(nid, inode, data, parent_nid, pending)
        for nid in self.nlinks.keys() | self.names.keys():
            nlink, names = self.nlinks.get(nid, 1), self.names.get(nid, 1)
            if nlink != names:
                raise InvalidNydusError(f"inode[{nid}].nlink", f"is {nlink}, the tree has {names} names")
        require(
            self.header.entries == self.entries,
            "superblock.inos",
            f"is {self.header.entries}, the tree has {self.entries} entries",
        )
        for nid in self.header.prefetch:
            require(nid in self.inodes, "prefetch_table", f"no file has nid {nid}")
        return root

    def _directory(
        self,
        nid: int,
        inode: Inode,
        data: bytes,
        parent_nid: int,
        pending: list[tuple[int, Inode, bytes, int]],
    ) -> None:
        children: dict[bytes, Inode] = {}
        found = 0
        subdirectories = 0
        inodes = self.inodes
        entries = decode_directory(data)
        self.entries += len(entries) - len(_DOTS)
        if self.entries > self.header.entries:
            raise InvalidNydusError("superblock.inos", f"is {self.header.entries}, the tree has more")
        others = self.plain.take(entries, inodes, children if self.keep else None)
        self._spend(nid, PLAIN.size * (len(entries) - len(others)))
        for name, child_nid, kind in others:
            if name in _DOTS:
                expected = nid if name == b"." else parent_nid
                require(child_nid == expected, f"inode[{nid}].dirent", f"{name.decode()!r} is nid {child_nid}")
                found += 1
                continue
            child = inodes.get(child_nid)
            if child is None:
                child, content = self._inode(child_nid, name)
                if child.children is not None:
                    subdirectories += 1
                    pending.append((child_nid, child, content, nid))
            else:
                require(child.children is None, f"inode[{child_nid}]", f"the directory {name!r} has two parents")
                self.names[child_nid] = self.names.get(child_nid, 1) + 1
            if FILE_TYPES[child.mode & S_IFMT] != kind:
                raise InvalidNydusError(
                    f"inode[{nid}].dirent.type", f"{name!r} is {kind}, its mode says {child.mode:o}"
                )
            children[name] = child
        require(found == 2, f"inode[{nid}].dirent", "lacks '.' or '..'")
        nlink = self.nlinks.pop(nid, 1)
        require(nlink == 2 + subdirectories, f"inode[{nid}].nlink", f"is {nlink} with {subdirectories} subdirectories")
        if self.keep:
            inode.children = children

    def _spend(self, nid: int, taken: int) -> None:
        """``taken`` bytes of the file belong to the inode ``nid``, or to the plain files in it."""
        self.left -= taken
        if self.left < 0:
            raise InvalidNydusError(f"inode[{nid}]", "the inodes and their data overlap: the file has fewer bytes")

    def _inode(self, nid: int, name: bytes) -> tuple[Inode, bytes]:
        """The inode and, of a directory, its data."""
        data = self.data
        at = self.header.meta + SLOT * nid
        if nid <= 0 or at + INODE.size > len(data):
            raise InvalidNydusError(f"inode[{nid}]", f"{name!r} lies outside the file")
        if data[at] & 1:
            form, icount, mode, _, size, union, _, uid, gid, mtime, mtime_ns, nlink, reserved = INODE.unpack_from(
                data, at
            )
            end = at + INODE.size
        else:
            form, icount, mode, nlink, size, _, union, _, uid, gid, _ = COMPACT_INODE.unpack_from(data, at)
            mtime = mtime_ns = 0
            reserved = _NO_MARK
            end = at + COMPACT_INODE.size
        layout = form >> 1
        kind = mode & S_IFMT
        if kind not in FILE_TYPES or mtime_ns >= _NANOSECONDS:
            require(kind in FILE_TYPES, f"inode[{nid}].mode", f"{mode:o} is no file type")
            raise InvalidNydusError(f"inode[{nid}].mtime_nsec", f"is {mtime_ns}")
        inode = Inode(mode, uid, gid, mtime, mtime_ns)
        if reserved != _NO_MARK:
            require(reserved in _MARK_OF_BYTES, f"inode[{nid}].reserved", "is not zero")
            inode.mark = _MARK_OF_BYTES[reserved]
        if icount:
            start = end
            end += area_size(icount)
            require(end <= len(data), f"inode[{nid}].xattr_icount", "the attributes lie outside the file")
            inode.xattrs = decode_xattrs(data[start:end])
        content = b""
        taken = end - at
        if kind == _REGULAR:
            if layout != LAYOUT_CHUNKED:
                raise InvalidNydusError(f"inode[{nid}].format", f"data layout {layout} for a regular file")
            inode.size = size
            chunks = inode.chunks = decode_file_chunks(
                data, end + 7 & -8, union, nid=nid, size=size, chunk_size=self.header.chunk_size, known=self.chunks
            )
            taken += 8 * len(chunks)
        elif kind == stat.S_IFDIR:
            content = self._content(f"inode[{nid}]", layout, union * BLOCK, end, size)
            taken += size
        elif kind == stat.S_IFLNK:
            inode.target = self._content(f"inode[{nid}]", layout, union * BLOCK, end, size)
            require(0 < size <= MAXIMUM_SYMLINK, f"inode[{nid}].size", f"a symbolic link's target of {size} bytes")
            taken += size
        else:
            require(layout == LAYOUT_PLAIN, f"inode[{nid}].format", f"data layout {layout} for a special file")
            if kind in _DEVICES:
                inode.rdev = union
        self._spend(nid, taken)
        self.inodes[nid] = inode
        if nlink != 1:
            self.nlinks[nid] = nlink
        return inode, content

    def _content(self, field: str, layout: int, start: int, inode_end: int, size: int) -> bytes:
        require(layout in {LAYOUT_PLAIN, LAYOUT_INLINE}, f"{field}.format", f"data layout {layout}")
        data = self.data
        require(size <= len(data), f"{field}.size", f"{size} bytes are more than the file has")
        full = size
        tail = b""
        if layout == LAYOUT_INLINE:
            full -= size % BLOCK
            tail_size = size - full
            if tail_size:
                last = inode_end + tail_size - 1
                require(inode_end // BLOCK == last // BLOCK, f"{field}.format", "the inline data crosses a block")
                require(last < len(data), f"{field}.size", "the inline data lies outside the file")
                tail = data[inode_end : last + 1]
        if full:
            require(start + full <= len(data), f"{field}.u", "the data lies outside the file")
            return data[start : start + full] + tail
        return tail


def decode_bootstrap(data: bytes, blob_id: str | None = None) -> Bootstrap:
    """Decode and validate a RAFS v6 bootstrap.

    Args:
        data: the whole file.
        blob_id: 64 hex digits of the blob that the bootstrap is part of, for the placeholder inside it.

    Raises:
        InvalidNydusError: ``field`` names what is wrong.
    """
    header = decode_header(data, blob_id)
    decoder = _Decoder(data, header, keep=True)
    root = decoder.decode()
    return Bootstrap(
        root=root,
        blobs=header.blobs,
        chunk_size=header.chunk_size,
        compressor=header.compressor,
        digester=header.digester,
        prefetch=[decoder.inodes[nid] for nid in header.prefetch],
        extra_flags=header.extra_flags,
    )


def validate_bootstrap(data: bytes) -> Bootstrap:
    """Decode a whole image's bootstrap, to which more rules apply than to a layer's.

    Raises:
        InvalidNydusError: ``field`` names what is wrong.
    """
    bootstrap = decode_bootstrap(data)
    _check_features(bootstrap.blobs)
    return bootstrap


def check_bootstrap(data: bytes) -> tuple[list[Blob], Collection[Chunk]]:
    """All that :func:`validate_bootstrap` checks of an image's bootstrap, in less time and memory; its blobs and chunks.

    Raises:
        InvalidNydusError: ``field`` names what is wrong.
    """
    header = decode_header(data, None)
    decoder = _Decoder(data, header, keep=False)
    decoder.decode()
    _check_features(header.blobs)
    return header.blobs, decoder.chunks.values()


def _check_features(blobs: Sequence[Blob]) -> None:
    for index, blob in enumerate(blobs):
        require(
            not blob.features & BlobFeatures.INLINED_FS_META,
            f"blob[{index}].features",
            "INLINED_FS_META in an image's bootstrap: readers would look for a blob named after the file",
        )
