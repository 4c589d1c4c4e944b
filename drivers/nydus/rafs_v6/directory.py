"""EROFS directory data: 12-byte dirents, then their names, packed into 4096-byte blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from drivers.nydus.errors import InvalidNydusError, require
from drivers.nydus.rafs_v6.layout import BLOCK, DIRENT, MAXIMUM_NAME

_DIRENT_SIZE: Final = DIRENT.size
_KINDS: Final = 8


def directory_size(names: Iterable[bytes]) -> int:
    """Bytes that sorted names (``.`` and ``..`` among them) take: full blocks plus what the last one uses."""
    size = 0
    used = 0
    for name in names:
        needed = _DIRENT_SIZE + len(name)
        if used + needed > BLOCK:
            size += BLOCK
            used = 0
        used += needed
    return size + used


def encode_directory(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    """Pack sorted ``(name, nid, type)``; every block but the last is zero filled."""
    data = bytearray()
    first = 0
    used = 0
    for position, entry in enumerate(entries):
        needed = _DIRENT_SIZE + len(entry[0])
        if used + needed > BLOCK:
            data += _encode_block(entries[first:position])
            data += bytes(-len(data) % BLOCK)
            first = position
            used = 0
        used += needed
    data += _encode_block(entries[first:])
    return bytes(data)


def _encode_block(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    offset = _DIRENT_SIZE * len(entries)
    pack = DIRENT.pack
    heads = []
    for name, nid, kind in entries:
        heads.append(pack(nid, offset, kind, 0))
        offset += len(name)
    heads.extend(name for name, _, _ in entries)
    return b"".join(heads)


def decode_directory(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """``(name, nid, type)`` in the order of the data.

    Raises:
        InvalidNydusError: fields ``dirent.*`` (offsets outside the block, empty or unsorted names).
    """
    previous = b""
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        require(len(block) >= _DIRENT_SIZE, "dirent.nameoff", "a block is too short for an entry")
        names_at = DIRENT.unpack_from(block, 0)[1]
        require(
            names_at % _DIRENT_SIZE == 0 and _DIRENT_SIZE <= names_at <= len(block),
            "dirent.nameoff",
            f"the first name begins at {names_at}",
        )
        heads = list(DIRENT.iter_unpack(block[:names_at]))
        # The last name ends at the block's first NUL, or with it.
        names_end = block.find(b"\0", names_at)
        if names_end < 0:
            names_end = len(block)
        require(block.find(b"/", names_at, names_end) < 0, "dirent.name", "a name with a slash")
        offsets = [head[1] for head in heads]
        offsets.append(names_end)
        for (nid, offset, kind, _), end in zip(heads, offsets[1:], strict=True):
            if not names_at <= offset < end <= names_end:
                raise InvalidNydusError("dirent.nameoff", f"a name at {offset} ends at {end}")
            name = block[offset:end]
            if end - offset > MAXIMUM_NAME:
                raise InvalidNydusError("dirent.name", f"{name[:300]!r} is not a file name")
            if name <= previous:
                raise InvalidNydusError("dirent.name", f"{name!r} is out of order")
            if not 0 < kind < _KINDS:
                raise InvalidNydusError("dirent.type", f"{name!r} has type {kind}")
            previous = name
            yield name, nid, kind
