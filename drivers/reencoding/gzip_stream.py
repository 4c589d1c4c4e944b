"""Gzip (RFC 1952) inflated by our own inflater, with its matches kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple, NoReturn

from isal import isal_zlib

from drivers.reencoding import native
from shared.errors import CorruptLayerError

_MAGIC: Final = b"\x1f\x8b"
_DEFLATE: Final = 8
_HEAD: Final = 10
_TAIL: Final = 8
_HEADER_CHECKSUM, _EXTRA, _NAME, _COMMENT, _RESERVED = 0x02, 0x04, 0x08, 0x10, 0xE0
_LONGEST_HEAD: Final = 128 << 10
"""Bytes. The extra field has up to 64 KiB; names and comments have no limit of their own."""
_PIECE: Final = 64 << 10
"""Bytes up to which pieces are kept as one: a stream of tiny members would take hundreds of bytes of memory for each."""


class Matches(NamedTuple):
    """Part of what a stream's compressor found."""

    records: bytes
    """See :meth:`drivers.reencoding.native.Encoder.members`."""
    skip: int
    """Bytes that the records describe in front of what they were asked for; negative where that begins before the stream."""


@dataclass(slots=True)
class _Piece:
    start: int
    end: int
    records: bytearray


class _Part(Enum):
    """Of a gzip member."""

    HEAD = auto()
    DEFLATE = auto()
    TAIL = auto()


class GzipStream:
    """A :class:`drivers.inflate.Stream`: any number of members; zero bytes may follow the last one.

    What the inflater knows beside the bytes is for subclasses to take.
    """

    def __init__(self) -> None:
        self._inflater = native.Inflater()
        self._part = _Part.HEAD
        self._left = b""  # not used yet
        self._offset = 0  # of it
        self._padding = False
        self._checksum = 0
        self._size = 0  # of the member so far
        self._position = 0  # in the uncompressed stream

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises CorruptLayerError."""
        return self._take(data, last=False)

    def finish(self) -> Iterator[bytes]:
        """Raises CorruptLayerError, also where the stream ends inside a member."""
        yield from self._take(b"", last=True)
        if self._part is not _Part.HEAD or self._left:
            offset = self._offset + len(self._left)
            message = f"the layer's gzip data ends in the middle of a member, at byte {offset}"
            raise CorruptLayerError(message, offset=offset)

    def _begun(self, offset: int) -> None:
        """A member's deflate stream begins at byte ``offset``, and at :attr:`_position`."""

    def _inflated(self, piece: bytes, data: bytes, start: int, end: int) -> None:
        """The inflater gave ``piece``, which may be empty, for ``data[start:end]``; it begins at :attr:`_position`."""

    def _take(self, data: bytes, *, last: bool) -> Iterator[bytes]:
        data = self._left + data
        at = 0
        status = native.END
        while status != native.NEEDS_INPUT:
            if self._part is _Part.DEFLATE:
                start = at
                status, at = self._inflater.inflate(data, at, last=last)
                if status < 0:
                    self._damaged(native.ERRORS[status], at)
                piece = self._inflater.piece()
                self._inflated(piece, data, start, at)
                if piece:
                    self._position += len(piece)
                    self._size += len(piece)
                    self._checksum = isal_zlib.crc32(piece, self._checksum)
                    yield piece
                if status == native.END:
                    self._part = _Part.TAIL
            else:
                after = (self._head if self._part is _Part.HEAD else self._tail)(data, at)
                if after == at:
                    break
                at = after
        self._offset += at
        self._left = data[at:]

    def _head(self, data: bytes, at: int) -> int:
        """Past a member's head, or the zero bytes that some writers leave behind the last; ``at`` where more must come."""
        if at < len(data) and (self._padding or not data[at]):
            self._padding = True
            if data.count(0, at) < len(data) - at:
                self._damaged("bytes that are not gzip follow a member", at)
            return len(data)
        end = self._head_end(data, at)
        if end is None:
            return at
        self._part = _Part.DEFLATE
        self._inflater.restart()
        self._checksum = self._size = 0
        self._begun(self._offset + end)
        return end

    def _head_end(self, data: bytes, at: int) -> int | None:
        """RFC 1952, 2.3; None where more must come."""
        if not data.startswith(_MAGIC[: len(data) - at], at):
            self._damaged("bytes that are not gzip follow a member", at)
        end = at + _HEAD
        if len(data) < end:
            return None
        flags = data[at + 3]
        if data[at + 2] != _DEFLATE or flags & _RESERVED:
            self._damaged("unknown method or flags", at)
        if flags & _EXTRA:
            end += 2
            if len(data) < end:
                return None
            end += int.from_bytes(data[end - 2 : end], "little")
        for flag in (_NAME, _COMMENT):
            if flags & flag:
                end = data.find(0, end) + 1
                if (end or len(data)) - at > _LONGEST_HEAD:
                    self._damaged("endless name or comment", at)
                if not end:
                    return None
        if flags & _HEADER_CHECKSUM:
            end += 2
            checksum = isal_zlib.crc32(data[at : end - 2]) & 0xFFFF
            if end <= len(data) and data[end - 2 : end] != checksum.to_bytes(2, "little"):
                self._damaged("wrong checksum of a head", at)
        return end if end <= len(data) else None

    def _tail(self, data: bytes, at: int) -> int:
        end = at + _TAIL
        if len(data) < end:
            return at
        if data[at:end] != self._checksum.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"):
            self._damaged("wrong checksum or size", at)
        self._part = _Part.HEAD
        return end

    def _damaged(self, reason: str, at: int) -> NoReturn:
        offset = self._offset + at
        raise CorruptLayerError(f"the layer's gzip data is damaged near byte {offset}: {reason}", offset=offset)


class GzipMatches(GzipStream):
    """Keeps the matches of what it gave until :meth:`forget` says that they are not asked for any more."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: deque[_Piece] = deque()

    def matches(self, start: int, end: int) -> Matches:
        """Of bytes ``start`` (which may lie before the first) to ``end`` of the uncompressed stream at least."""
        pieces = [piece for piece in self._pieces if piece.start < end and start < piece.end]
        return Matches(b"".join(piece.records for piece in pieces), start - pieces[0].start if pieces else 0)

    def forget(self, end: int) -> None:
        """Nothing in front of byte ``end`` is asked for any more."""
        while self._pieces and self._pieces[0].end <= end:
            self._pieces.popleft()

    def _inflated(self, piece: bytes, data: bytes, start: int, end: int) -> None:  # noqa: ARG002  where it came from says nothing of them
        if not piece:
            return
        after = self._position + len(piece)
        last = self._pieces[-1] if self._pieces else None
        if last and after - last.start <= _PIECE:
            last.records += self._inflater.matches()
            last.end = after
        else:
            self._pieces.append(_Piece(self._position, after, bytearray(self._inflater.matches())))
