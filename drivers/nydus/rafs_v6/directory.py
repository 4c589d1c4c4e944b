"""EROFS directory data: 12-byte dirents, then their names, packed into 4096-byte blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from operator import lt
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


def encode_directory(names: Sequence[bytes], nids: Sequence[int], kinds: Sequence[int]) -> bytes:
    """Pack sorted names with their nids and types; every block but the last is zero filled."""
    data = bytearray()
    first = 0
    used = 0
    for position, name in enumerate(names):
        used += _DIRENT_SIZE + len(name)
        if used > BLOCK:
            block = slice(first, position)
            data += _encode_block(names[block], nids[block], kinds[block])
            data += bytes(-len(data) % BLOCK)
            first = position
            used = _DIRENT_SIZE + len(name)
    data += _encode_block(names[first:], nids[first:], kinds[first:])
    return bytes(data)


def _encode_block(names: Sequence[bytes], nids: Sequence[int], kinds: Sequence[int]) -> bytes:
    offsets = accumulate(map(len, names), initial=_DIRENT_SIZE * len(names))
    return b"".join((*map(DIRENT.pack, nids, offsets, kinds, repeat(0)), *names))


def decode_directory(data: bytes) -> list[tuple[bytes, int, int]]:
    """``(name, nid, type)`` in the order of the data.

    Raises:
        InvalidNydusError: fields ``dirent.*`` (offsets outside the block, empty or unsorted names).
    """
    found: list[tuple[bytes, int, int]] = []
    for start in range(0, len(data), BLOCK):
        found += _decode_block(data[start : start + BLOCK], found[-1][0] if found else b"")
    return found


def _decode_block(block: bytes, previous: bytes) -> Iterable[tuple[bytes, int, int]]:
    """One block's entries; ``previous`` is the name before its first."""
    require(len(block) >= _DIRENT_SIZE, "dirent.nameoff", "a block is too short for an entry")
    names_at = DIRENT.unpack_from(block, 0)[1]
    require(
        names_at % _DIRENT_SIZE == 0 and _DIRENT_SIZE <= names_at <= len(block),
        "dirent.nameoff",
        f"the first name begins at {names_at}",
    )
    nids, offsets, kinds, _ = zip(*DIRENT.iter_unpack(block[:names_at]), strict=True)
    # The last name ends at the block's first NUL, or with it.
    names_end = block.find(b"\0", names_at)
    if names_end < 0:
        names_end = len(block)
    require(block.find(b"/", names_at, names_end) < 0, "dirent.name", "a name with a slash")
    # Whole columns are compared in C; only what breaks a rule is looked for entry by entry.
    ends = (*offsets[1:], names_end)
    if not all(map(lt, offsets, ends)):
        _report_offset(offsets, ends)
    names = [block[start:end] for start, end in zip(offsets, ends, strict=True)]
    if not (all(map(lt, (previous, *names), names)) and max(map(len, names)) <= MAXIMUM_NAME):
        _report_name(previous, names)
    if not 0 < min(kinds) <= max(kinds) < _KINDS:
        name, kind = next(pair for pair in zip(names, kinds, strict=True) if not 0 < pair[1] < _KINDS)
        raise InvalidNydusError("dirent.type", f"{name!r} has type {kind}")
    return zip(names, nids, kinds, strict=True)


def _report_offset(offsets: Iterable[int], ends: Iterable[int]) -> None:
    start, end = next(pair for pair in zip(offsets, ends, strict=True) if pair[0] >= pair[1])
    raise InvalidNydusError("dirent.nameoff", f"a name at {start} ends at {end}")


def _report_name(previous: bytes, names: Iterable[bytes]) -> None:
    for name in names:
        require(len(name) <= MAXIMUM_NAME, "dirent.name", f"{name[:300]!r} is not a file name")
        require(name > previous, "dirent.name", f"{name!r} is out of order")
        previous = name
