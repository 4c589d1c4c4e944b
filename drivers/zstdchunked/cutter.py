"""Cuts a source layer's tar stream into the batches of frames of a zstd:chunked layer.

Nothing is left out and nothing is put in: headers, padding, the archive's end and what follows it are in the frames as they came.
A frame begins at the first byte of every regular file's data and at every chunk of it. Where the cuts lie depends on the content
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import orjson

from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.stargz.batch import BATCH_SIZE, HEADERS_SIZE, Batch, Chunk
from drivers.stargz.lines import EMPTY_DIGEST, LineWriter
from drivers.stargz.names import Names
from drivers.tar.entry import DIRECTORY, GLOBAL_PAX, HARD_LINK, REGULAR, TarEntry, clean
from drivers.tar.parser import TarParser

_ROOT: Final = b'{"name":"./","type":"dir","mode":493}'
"""What readers take for granted where there is any entry, and cannot do without where there is none. In the table only."""


class Cutter:
    """Feed compressed source bytes, take batches, in order.

    Args:
        chunk_size: bytes of file data a frame at most.
        limits: what the layer may ask for.
        names: told every path in the table's order.
    """

    def __init__(self, chunk_size: int, limits: LayerLimits, names: Names) -> None:
        self._inflater = Inflater(limits)
        self._parser = TarParser(limits)
        self._chunk_size = chunk_size
        self._names = names
        self._lines = LineWriter()
        self._batch = Batch()
        self._batch.begin(0)
        self._full: list[Batch] = []
        self._piece = memoryview(b"")  # of the tar
        # All of the following are offsets in the tar.
        self._piece_at = 0
        self._taken = 0  # what stands before is in the batches
        self._cut = HEADERS_SIZE  # where the next frame begins, if no file begins one before
        self._file = 0  # where the last file's data begins
        self._file_end = 0
        self._file_name = b""

    def start(self) -> Iterator[Batch]:
        """Nothing comes before the source's own entries."""
        return iter(())

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Compressed bytes; batches come as they fill. Exhaust it before the next call.

        Raises:
            CorruptLayerError, LimitExceededError, UnsupportedError: the source is not what it should be.
            UnconvertibleLayerError: sound, but not expressible.
        """
        for piece in self._inflater.feed(data):
            yield from self._tar(piece)

    def finish(self) -> Iterator[Batch]:
        """After the last byte."""
        for piece in self._inflater.finish():
            yield from self._tar(piece)
        self._parser.finish()
        if not self._names:
            self._names.add("", directory=True)
            self._batch.line(_ROOT)
        self._close()
        yield from self._filled()

    def _tar(self, piece: bytes) -> Iterator[Batch]:
        self._piece, self._piece_at = memoryview(piece), self._taken
        full = self._full
        for event in self._parser.feed(piece):
            if isinstance(event, TarEntry):
                self._take(event.offset + len(event.raw))
                if event.type != GLOBAL_PAX:
                    self._entry(event)
                if full:
                    yield from self._filled()
        self._take(self._piece_at + len(piece))
        yield from self._filled()

    def _filled(self) -> Iterator[Batch]:
        yield from self._full
        self._full.clear()

    def _entry(self, entry: TarEntry) -> None:
        kind, size = entry.type, entry.size
        head = self._lines.head(entry)
        self._names.add(clean(entry.name), directory=kind == DIRECTORY)
        if kind == REGULAR and size:
            self._file = self._cut = entry.offset + len(entry.raw)
            self._file_end = self._file + size
            if size > self._chunk_size:
                self._file_name = orjson.dumps(entry.name)
            self._begin(head)
        elif kind == REGULAR:
            self._batch.line(head + EMPTY_DIGEST + b"}")
        else:
            if kind == HARD_LINK:
                self._names.link(clean(entry.link))
            self._batch.line(head + b"}")

    def _take(self, end: int) -> None:
        """Everything before ``end``, in frames that begin where they are due."""
        while self._cut < end:
            self._append(self._cut)
            self._begin()
        self._append(end)

    def _append(self, end: int) -> None:
        if end > self._taken:
            self._batch.append(self._piece[self._taken - self._piece_at : end - self._piece_at])
            self._taken = end

    def _begin(self, head: bytes = b"") -> None:
        """A frame begins, in the next batch when this one is full: of file data if there is any left, else of what follows."""
        if self._batch.size >= BATCH_SIZE:
            self._close()
            self._batch = Batch()
        batch, left = self._batch, max(0, self._file_end - self._cut)
        payload = min(left, self._chunk_size)
        batch.begin(payload, head)
        if left and self._file_end - self._file > self._chunk_size:
            position = self._cut - self._file
            batch.chunks[len(batch.starts) - 1] = Chunk(self._file_name, position, last=payload == left)
        self._cut += payload if payload < left else payload + HEADERS_SIZE

    def _close(self) -> None:
        self._batch.close()
        self._full.append(self._batch)
