"""The files of a directory that are as most are, read together: one chunk, one name, no attributes.

A shortcut only. Whatever is not plain in every respect, or breaks a rule, is left to the decoder, which has all the rules.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from typing import Final

from drivers.nydus.rafs_v6.encode import MARKS
from drivers.nydus.rafs_v6.file_chunks import chunk_format
from drivers.nydus.rafs_v6.layout import (
    FILE_TYPES,
    FORMAT_EXTENDED,
    LAYOUT_CHUNKED,
    PLAIN,
    SLOT,
)
from drivers.nydus.rafs_v6.superblock import Header
from drivers.nydus.tree import S_IFMT, Chunk, Inode, Mark

_REGULAR: Final = stat.S_IFREG
_KIND: Final = FILE_TYPES[_REGULAR]
_CHUNKED: Final = FORMAT_EXTENDED | LAYOUT_CHUNKED << 1
_NO_MARK: Final = MARKS[Mark.NONE]
_ANY: Final = Inode(_REGULAR)

Entry = tuple[bytes, int, int]
"""Name, nid and type of a directory entry."""


class PlainFiles:
    def __init__(self, data: bytes, header: Header, chunks: Mapping[int, Chunk]) -> None:
        self._data = data
        self._meta = header.meta
        self._last = (len(data) - header.meta - PLAIN.size) // SLOT
        self._format = chunk_format(header.chunk_size)
        self._chunks = chunks

    def take(
        self, entries: Sequence[Entry], inodes: dict[int, Inode], children: dict[bytes, Inode] | None
    ) -> list[Entry]:
        """Put the plain files among a directory's entries into ``inodes`` and ``children``; returns the other entries.

        Args:
            entries: of one directory.
            inodes: by nid, all that have been read; one that is in here already has more than one name.
            children: of the directory; None if only the checks are wanted: then one inode stands for all plain ones.
        """
        data, meta, last = self._data, self._meta, self._last
        others: list[Entry] = []
        files: list[Entry] = []
        for entry in entries:
            (files if entry[2] == _KIND and 0 < entry[1] <= last else others).append(entry)
        places = [meta + SLOT * nid for _, nid, _ in files]
        records = PLAIN.iter_unpack(b"".join([data[at : at + PLAIN.size] for at in places]))
        find, expected_format = self._chunks.get, self._format
        for entry, record in zip(files, records, strict=True):
            form, icount, mode, _, size, union, _, uid, gid, mtime, mtime_ns, nlink, reserved, index = record
            name, nid, _ = entry
            chunk = find(index)
            if (
                chunk is None
                or chunk.uncompressed_size != size
                or form != _CHUNKED
                or icount
                or mode & S_IFMT != _REGULAR
                or union != expected_format
                or nlink != 1
                or mtime_ns >= 1_000_000_000
                or reserved != _NO_MARK
                or nid in inodes
            ):
                others.append(entry)
            elif children is None:
                inodes[nid] = _ANY
            else:
                inodes[nid] = children[name] = Inode(mode, uid, gid, mtime, mtime_ns, size, 0, b"", (), (chunk,))
        return others
