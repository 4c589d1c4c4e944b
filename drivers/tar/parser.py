"""A push parser over a tar stream: no read calls, no threads, state between pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from drivers.limits import LayerLimits
from drivers.tar.entry import DIRECTORY, GLOBAL_PAX, REGULAR, SPARSE, TarEntry
from drivers.tar.header import BLOCK_SIZE, ZERO_BLOCK, HeaderReader, parse_number
from drivers.tar.pax import apply_records, parse_records
from drivers.tar.sparse import SparseMapReader, is_sparse
from shared.errors import CorruptLayerError, LimitExceededError

_PAX: Final = b"x"
_LONG_NAME: Final = b"L"
_LONG_LINK: Final = b"K"
_EXTENSIONS: Final = frozenset((_PAX, _LONG_NAME, _LONG_LINK, GLOBAL_PAX))


class TarParser:
    """Feed pieces of any size; get each :class:`TarEntry` and, after it, its payload as views that add up to its ``size``.

    Views alias the piece that was fed. A PAX global header comes as an entry of its own (type ``g``, size 0, records in
    ``raw``); it changes no other entry, as in Go. What follows the end-of-archive mark is passed over.

    Args:
        limits: ``layer_entries``, ``pax_record`` and ``layer_size`` (against one absurd size) are watched here.
    """

    def __init__(self, limits: LayerLimits) -> None:
        self.entries = 0
        self.ended = False
        """Whether the end-of-archive mark has come."""
        self._limits = limits
        self._headers = HeaderReader()
        self._offset = 0  # of the next byte to be fed
        self._carry = b""  # part of a header block
        self._payload = 0  # bytes still to come
        self._padding = 0
        self._zero_block = False
        self._extension: bytes | None = None  # type flag of the record whose body is being gathered
        self._body = bytearray()
        self._body_left = 0
        self._raw: list[bytes] = []
        self._raw_size = 0
        self._records: dict[bytes, bytes] = {}
        self._long_name = ""
        self._long_link = ""
        self._sparse: SparseMapReader | None = None  # of the entry whose map goes on in the next block
        self._holes = 0  # bytes of them so far

    def feed(self, data: bytes) -> Iterator[TarEntry | memoryview]:
        """Events of one piece; exhaust it before the next call.

        Raises:
            CorruptLayerError: no sound tar, with the offset.
            LimitExceededError: too many entries or too large records.
        """
        view = memoryview(data)
        position, end = 0, len(data)
        base = self._offset
        self._offset += end
        read = self._headers.read
        while position < end:
            if self.ended:
                return
            if self._payload:
                count = min(self._payload, end - position)
                self._payload -= count
                yield view[position : position + count]
                position += count
            elif self._padding:
                count = min(self._padding, end - position)
                self._padding -= count
                position += count
            elif self._extension is not None:
                count = min(self._body_left, end - position)
                self._body += view[position : position + count]
                self._body_left -= count
                position += count
                if not self._body_left:
                    event = self._end_extension(base + position)
                    if event is not None:
                        yield event
            else:
                if self._carry:
                    block = self._carry + data[position : position + BLOCK_SIZE - len(self._carry)]
                else:
                    block = data[position : position + BLOCK_SIZE]
                position += len(block) - len(self._carry)
                if len(block) < BLOCK_SIZE:
                    self._carry = block
                    return
                self._carry = b""
                offset = base + position - BLOCK_SIZE
                if self._sparse is not None:
                    entry = self._sparse.entry
                    self._sparse.add(block)
                    if self._map_goes_on(self._sparse):
                        continue
                else:
                    if block == ZERO_BLOCK:
                        self._end_mark(offset)
                        continue
                    if self._zero_block:
                        raise CorruptLayerError(
                            f"a zero block at byte {offset - BLOCK_SIZE} is followed by data", offset=offset
                        )
                    entry = read(block, offset)
                    if entry.type in _EXTENSIONS:
                        self._begin_extension(entry)
                        continue
                    sparse = self._extend(entry) if self._raw else None
                    if entry.type == SPARSE:
                        sparse = SparseMapReader(entry, {})
                    if sparse is not None and self._map_goes_on(sparse):
                        continue
                self._count_entry()
                size = entry.size
                if not size:
                    yield entry
                    continue
                if size > self._limits.layer_size:
                    message = f"{entry.name!r} claims {size} bytes, more than limits.layer_size"
                    raise LimitExceededError(message, limit="layer_size")
                stop = position + size + -size % BLOCK_SIZE
                if stop > end:
                    self._payload = size
                    self._padding = -size % BLOCK_SIZE
                    yield entry
                else:  # as most files are: whole in this piece
                    yield entry
                    yield view[position : position + size]
                    position = stop

    def finish(self) -> None:
        """After the last piece.

        Raises:
            CorruptLayerError: the stream ends in the middle of an entry. A missing end-of-archive mark is let pass, as Go does.
        """
        if self.ended:
            return
        if self._carry or self._payload or self._padding or self._extension is not None or self._raw or self._sparse:
            raise CorruptLayerError(f"the tar stream is cut at byte {self._offset}", offset=self._offset)

    def _end_mark(self, offset: int) -> None:
        if self._raw:
            raise CorruptLayerError(f"the archive ends after an extension record, at byte {offset}", offset=offset)
        self.ended = self._zero_block
        self._zero_block = True

    def _count_entry(self) -> None:
        self.entries += 1
        if self.entries > self._limits.layer_entries:
            message = f"the layer has more than {self._limits.layer_entries} entries (limits.layer_entries)"
            raise LimitExceededError(message, limit="layer_entries")

    def _begin_extension(self, entry: TarEntry) -> None:
        padded = entry.size + -entry.size % BLOCK_SIZE
        self._raw_size += BLOCK_SIZE + padded
        if self._raw_size > self._limits.pax_record + 8 * BLOCK_SIZE:
            message = f"records before the entry at byte {entry.offset} exceed {self._limits.pax_record} bytes (limits.pax_record)"
            raise LimitExceededError(message, limit="pax_record")
        self._raw.append(entry.raw)
        self._extension = entry.type
        self._body = bytearray()
        self._body_size = entry.size
        self._body_left = padded
        if not padded:
            self._extension = None
            self._apply_extension(entry.type, b"", entry.offset)

    def _end_extension(self, offset: int) -> TarEntry | None:
        kind, self._extension = self._extension, None
        padded = bytes(self._body)
        self._body = bytearray()
        self._raw.append(padded)
        body = padded[: self._body_size]
        if kind != GLOBAL_PAX:
            self._apply_extension(kind or b"", body, offset - len(padded))
            return None
        parse_records(body, offset - len(padded))
        self._count_entry()
        entry = self._headers.read(self._raw[-2], offset - self._raw_size)
        entry.size = 0
        entry.raw = b"".join(self._raw)
        self._forget_extensions()  # as Go does
        return entry

    def _apply_extension(self, kind: bytes, body: bytes, offset: int) -> None:
        if kind == _PAX:
            self._records = parse_records(body, offset)
        elif kind == _LONG_NAME:
            self._long_name = _until_nul(body)
        elif kind == _LONG_LINK:
            self._long_link = _until_nul(body)

    def _extend(self, entry: TarEntry) -> SparseMapReader | None:
        """Records read so far belong to this entry, and may say that it is sparse."""
        sparse = None
        untyped = entry.raw[156] == 0  # a directory by the slash at the end of its name, which is not known before
        if untyped:
            entry.type, entry.size = REGULAR, parse_number(entry.raw[124:136])
        self._raw.append(entry.raw)
        entry.raw = b"".join(self._raw)
        entry.offset -= self._raw_size
        if self._records:
            told_sparse = is_sparse(self._records)
            apply_records(entry, self._records, sparse=told_sparse)
            if told_sparse:
                sparse = SparseMapReader(entry, self._records)
        if self._long_name:
            entry.name = self._long_name
        if self._long_link:
            entry.link = self._long_link
        if untyped and entry.name.endswith("/"):
            entry.type, entry.size = DIRECTORY, 0
        self._forget_extensions()
        return sparse

    def _forget_extensions(self) -> None:
        self._records = {}
        self._long_name = self._long_link = ""
        self._raw = []
        self._raw_size = 0

    def _map_goes_on(self, sparse: SparseMapReader) -> bool:
        if sparse.goes_on:
            if sparse.map_size > self._limits.pax_record:
                message = f"the map of {sparse.entry.name[:200]!r} exceeds {self._limits.pax_record} bytes (limits.pax_record)"
                raise LimitExceededError(message, limit="pax_record")
            self._sparse = sparse
            return True
        self._sparse = None
        self._holes += sparse.finish()
        if self._holes > self._limits.layer_size:
            message = f"{sparse.entry.name[:200]!r} has holes beyond limits.layer_size"
            raise LimitExceededError(message, limit="layer_size")
        return False


def _until_nul(body: bytes) -> str:
    return body.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
