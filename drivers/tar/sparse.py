"""Sparse files: old GNU headers, and PAX 0.0, 0.1 and 1.0, as GNU tar's manual gives them and Go's archive/tar reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from drivers.tar.entry import CONTIGUOUS, REGULAR, SPARSE, TarEntry
from drivers.tar.header import BLOCK_SIZE, parse_number
from shared.errors import CorruptLayerError

_MAJOR: Final = b"GNU.sparse.major"
_MINOR: Final = b"GNU.sparse.minor"
_MAP: Final = b"GNU.sparse.map"
_VERSIONS: Final = frozenset(((b"0", b"0"), (b"0", b"1"), (b"1", b"0")))

_PAIR: Final = 24
_OLD_MAP: Final = slice(386, 482)
_OLD_GOES_ON: Final = 482
_OLD_SIZE: Final = slice(483, 495)
_FURTHER_MAP: Final = slice(0, 504)
_FURTHER_GOES_ON: Final = 504
_DIGITS: Final = 19
_ZEROS: Final = memoryview(bytes(1 << 20))


def is_sparse(records: Mapping[bytes, bytes]) -> bool:
    """Whether PAX records are those of a sparse file. Of a version that Go does not know they are not."""
    version = records.get(_MAJOR, b""), records.get(_MINOR, b"")
    return version in _VERSIONS or (version == (b"", b"") and bool(records.get(_MAP)))


@dataclass(frozen=True, slots=True)
class SparseMap:
    """Where a file's stored data belongs."""

    size: int
    """Bytes of the whole file, holes included."""
    pieces: tuple[tuple[int, int], ...]
    """Place in the file and length of each piece of data, in order; all else are holes."""


class SparseMapReader:
    """Gathers one entry's map from its header or its records, and perhaps from the blocks that follow."""

    def __init__(self, entry: TarEntry, records: Mapping[bytes, bytes]) -> None:
        """Raises CorruptLayerError."""
        self.entry = entry
        self._blocks = [entry.raw]
        self._numbers: list[int] = []
        self._text = b""
        self._lines: int | None = None
        """Of a map in PAX 1.0's form, once its first line is known; they are numbers."""
        self.goes_on = False
        """Whether the next block is the map's, too."""
        if entry.type == SPARSE:
            header = entry.raw[-BLOCK_SIZE:]
            self._size = self._number(header[_OLD_SIZE])
            self._pairs(header[_OLD_MAP])
            self.goes_on = header[_OLD_GOES_ON] != 0
            return
        if entry.type not in (REGULAR, CONTIGUOUS):
            raise self._damaged("the entry is no file")
        size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize") or b""
        self._size = self._decimal(size)
        if records.get(_MAJOR) == b"1":
            self.goes_on = True
            return
        numbers = records.get(_MAP, b"")
        self._numbers = list(map(self._decimal, numbers.split(b","))) if numbers else []
        if self._decimal(records.get(b"GNU.sparse.numblocks", b"")) * 2 != len(self._numbers):
            raise self._damaged("the number of its pieces is not the one announced")

    @property
    def map_size(self) -> int:
        """Bytes of the blocks so far."""
        return BLOCK_SIZE * (len(self._blocks) - 1)

    def add(self, block: bytes) -> None:
        """Raises CorruptLayerError."""
        self._blocks.append(block)
        if self.entry.type == SPARSE:
            self._pairs(block[_FURTHER_MAP])
            self.goes_on = block[_FURTHER_GOES_ON] != 0
            return
        *lines, self._text = (self._text + block).split(b"\n")
        if self._lines is None and lines:
            self._lines = 2 * self._decimal(lines.pop(0))
        missing = (self._lines or 0) - len(self._numbers)
        self._numbers += map(self._decimal, lines[:missing])
        if len(self._text) > BLOCK_SIZE:
            raise self._damaged("a number in it is too long")
        self.goes_on = self._lines is None or len(self._numbers) < self._lines
        self.entry.size -= BLOCK_SIZE

    def finish(self) -> int:
        """Complete the entry: its map, ``raw``, and ``size`` without the map. Returns the bytes of its holes.

        Raises:
            CorruptLayerError: the map is no map of the data that follows.
        """
        entry = self.entry
        pieces = tuple(zip(self._numbers[::2], self._numbers[1::2], strict=True))
        bounds = [0, *(bound for start, length in pieces for bound in (start, start + length)), self._size]
        if any(before > after for before, after in pairwise(bounds)):
            raise self._damaged("its pieces are not in order, or beyond its end")
        data = sum(length for _, length in pieces)
        if data != entry.size:
            raise self._damaged(f"its pieces have {data} bytes, and {entry.size} are stored")
        entry.sparse = SparseMap(self._size, tuple(piece for piece in pieces if piece[1]))
        entry.raw = b"".join(self._blocks)
        return self._size - data

    def _pairs(self, fields: bytes) -> None:
        for at in range(0, len(fields), _PAIR):
            if not fields[at]:
                return
            middle = at + _PAIR // 2
            self._numbers += (self._number(fields[at:middle]), self._number(fields[middle : at + _PAIR]))

    def _number(self, field: bytes) -> int:
        try:
            return parse_number(field)
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _decimal(self, digits: bytes) -> int:
        if not digits.isdigit() or len(digits) > _DIGITS:
            raise self._damaged(f"{digits[:30]!r} in it is no number")
        return int(digits)

    def _damaged(self, what: str) -> CorruptLayerError:
        entry = self.entry
        message = f"the map of the sparse file {entry.name[:200]!r} at byte {entry.offset} is damaged: {what}"
        return CorruptLayerError(message, offset=entry.offset)


class SparseContent:
    """A sparse file's content from its stored data, holes as zeros."""

    def __init__(self, sparse: SparseMap) -> None:
        self._pieces = iter((*sparse.pieces, (sparse.size, 0)))
        self._position = 0
        self._start = 0
        self._left = 0

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """The next of the stored data, which may be empty, and all the zeros around it that are known by then."""
        while True:
            while self._position < self._start:
                zeros = _ZEROS[: self._start - self._position]
                self._position += len(zeros)
                yield zeros
            if self._left:
                if not data:
                    return
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                self._position += len(piece)
                self._start = self._position
                yield piece
                continue
            following = next(self._pieces, None)
            if following is None:
                return
            self._start, self._left = following
