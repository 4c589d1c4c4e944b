"""Cuts a source layer's tar stream into the batches of members of an eStargz layer.

A member begins at the first byte of every regular file's data and at every chunk of it; headers follow in the member of the
data before them. Header bytes pass through as they came. Where the cuts lie depends on the content alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import orjson

from drivers.estargz.batch import GzipBatch
from drivers.estargz.layout import (
    LANDMARK_CONTENT,
    NO_PREFETCH_LANDMARK,
    PREFETCH_LANDMARK,
    RESERVED_NAMES,
    regular_header,
)
from drivers.estargz.planner import Planner
from drivers.estargz.priorities import Prioritized
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.stargz.batch import BATCH_SIZE, HEADERS_SIZE, Chunk
from drivers.stargz.lines import EMPTY_DIGEST, LineWriter
from drivers.stargz.names import Names
from drivers.tar.entry import DIRECTORY, GLOBAL_PAX, HARD_LINK, NO_XATTRS, REGULAR, TarEntry, clean
from drivers.tar.parser import TarParser

_PADDING: Final = [bytes(-size % 512) for size in range(512)]


class Cutter:
    """Feed compressed source bytes, take batches, in order.

    Args:
        chunk_size: bytes of file data a member at most.
        limits: what the layer may ask for.
        names: told every path in the table's order.
        prioritized: what goes first; None means that prefetch was not asked for.
        planner: how the members are made.
    """

    def __init__(
        self,
        chunk_size: int,
        limits: LayerLimits,
        names: Names,
        prioritized: Sequence[Prioritized] | None,
        planner: Planner,
    ) -> None:
        self._inflater = Inflater(limits, gzip=planner.stream)
        self._parser = TarParser(limits)
        self._chunk_size = chunk_size
        self._names = names
        self._planner = planner
        self._prioritized = prioritized
        self._moved: Mapping[str, object] = {clean(item.entry.name): None for item in prioritized or ()}
        self._lines = LineWriter()
        self._batch = GzipBatch()
        self._batch.begin(0)
        self._full: list[GzipBatch] = []
        self._headers_from = 0  # where the current member's headers begin in the batch
        self._file_left = 0
        self._chunk_left = 0
        self._position = 0
        self._file_name = b""
        self._skipping = False
        self._source = 0  # where in the source's tar the next byte stands that is taken or skipped

    def start(self) -> Iterator[GzipBatch]:
        """Prioritised files and the landmark; once, before the first :meth:`feed`."""
        for item in self._prioritized or ():
            self._entry(item.entry, clean(item.entry.name))
            if item.entry.size:
                self._payload(memoryview(item.payload))
            yield from self._filled()
        self._landmark()
        yield from self._filled()
        self._batch.source = -self._batch.size
        self._source = 0

    def feed(self, data: bytes) -> Iterator[GzipBatch]:
        """Compressed bytes; batches come as they fill. Exhaust it before the next call.

        Raises:
            CorruptLayerError, LimitExceededError, UnsupportedError: the source is not what it should be.
            UnconvertibleLayerError: sound, but not expressible.
        """
        for piece in self._inflater.feed(data):
            yield from self._tar(piece)

    def finish(self) -> Iterator[GzipBatch]:
        """After the last byte."""
        for piece in self._inflater.finish():
            yield from self._tar(piece)
        self._parser.finish()
        if not self._parser.ended:
            self._close()
            yield from self._filled()

    def _tar(self, piece: bytes) -> Iterator[GzipBatch]:
        full = self._full
        behind_archive = self._parser.ended  # a name of its own: the type checker would take it for false to the end
        if behind_archive:
            self._planner.forget(self._inflater.uncompressed)
            return
        if self._batch.source is None:
            self._planner.forget(self._source)
        for event in self._parser.feed(piece):
            if isinstance(event, TarEntry):
                path = clean(event.name)
                # A global PAX header's "name" is a temporary one of its writer: it is no path.
                if (path in RESERVED_NAMES or path in self._moved) and event.type != GLOBAL_PAX:
                    self._skipping = event.size > 0
                    self._batch.source = None
                    self._source = event.offset + len(event.raw)
                    continue
                self._skipping = False
                if event.offset != self._source:
                    self._batch.source = None  # something before it was passed over
                    self._source = event.offset
                self._entry(event, path)
            elif self._skipping:
                self._source += len(event)
            else:
                self._payload(event)
            if full:
                yield from self._filled()
        if self._parser.ended:
            self._close()  # now, for matches of what follows are forgotten
            yield from self._filled()

    def _filled(self) -> Iterator[GzipBatch]:
        yield from self._full
        self._full.clear()

    def _entry(self, entry: TarEntry, path: str) -> None:
        if self._batch.size - self._headers_from > HEADERS_SIZE:
            self._member(0)
        kind, size = entry.type, entry.size
        if kind == GLOBAL_PAX:
            self._head(entry)
            return
        head = self._lines.head(entry)
        self._names.add(path, directory=kind == DIRECTORY)
        self._head(entry)
        if kind == REGULAR and size:
            self._file(entry, head)
        elif kind == REGULAR:
            self._batch.line(head + EMPTY_DIGEST + b"}")
        else:
            if kind == HARD_LINK:
                self._names.link(clean(entry.link))
            self._batch.line(head + b"}")

    def _head(self, entry: TarEntry) -> None:
        self._batch.append(entry.raw)
        self._source += len(entry.raw)

    def _file(self, entry: TarEntry, head: bytes) -> None:
        size = entry.size
        self._file_left = size
        self._position = 0
        self._chunk_left = min(size, self._chunk_size)
        self._member(self._chunk_left, head)
        if size > self._chunk_size:
            self._file_name = orjson.dumps(entry.name)
            self._chunk(last=False)

    def _payload(self, data: memoryview) -> None:
        """A piece of the current file's data, which may hold the end of one chunk and the beginning of others."""
        while data:
            batch = self._batch
            taken = min(len(data), self._chunk_left)
            batch.append(data if taken == len(data) else data[:taken])
            self._source += taken
            self._file_left -= taken
            self._chunk_left -= taken
            if self._chunk_left:
                return
            if not self._file_left:
                padding = _PADDING[(self._position + batch.payloads[-1]) % 512]
                if padding:
                    batch.append(padding)
                    self._source += len(padding)
                self._headers_from = batch.size
                return
            data = data[taken:]
            self._position += self._chunk_size
            self._chunk_left = min(self._chunk_size, self._file_left)
            self._member(self._chunk_left)
            self._chunk(last=self._file_left == self._chunk_left)

    def _member(self, payload: int, head: bytes = b"") -> None:
        """Begin a member, in the next batch when this one is full."""
        if self._batch.size >= BATCH_SIZE:
            self._close()
            self._batch = GzipBatch(source=self._source)
        self._batch.begin(payload, head)
        self._headers_from = self._batch.size + payload

    def _close(self) -> None:
        batch = self._batch
        batch.close()
        self._planner.plan(batch)
        self._planner.forget(self._source)
        self._full.append(batch)

    def _chunk(self, *, last: bool) -> None:
        batch = self._batch
        batch.chunks[len(batch.starts) - 1] = Chunk(self._file_name, self._position, last)

    def _landmark(self) -> None:
        name = NO_PREFETCH_LANDMARK if self._prioritized is None else PREFETCH_LANDMARK
        size = len(LANDMARK_CONTENT)
        header = regular_header(name, size)
        entry = TarEntry(
            REGULAR, name, "", size, 0, 0, 0, "", "", 0, 0, 0, 0, NO_XATTRS, sparse=None, raw=header, offset=0
        )
        self._names.add(name, directory=False)
        self._batch.append(header)
        # As the reference builder writes it: no owner, mode or time.
        self._file(entry, b'{"name":"%b","type":"reg","size":%d' % (name.encode("ascii"), size))
        self._payload(memoryview(LANDMARK_CONTENT))
