"""Chooses the places where inflating may begin, while a gzip stream passes.

A context serves neighbouring chunks. A new one begins when the present one has 512 KiB compressed or would pass 2 MiB of tar,
and with each gzip member, as the reference builder's do; it begins at the last block boundary in front of its first chunk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from drivers.nydus.rafs_v6.layout import BLOCK, align
from drivers.nydus.zran.blocks import Boundary
from drivers.nydus.zran.index import MAXIMUM_COMPRESSED, Context, ZranChunk, ZranIndex
from shared.errors import UnsupportedError

_CONTEXT_COMPRESSED: Final = 512 << 10
_CONTEXT_UNCOMPRESSED: Final = 2 << 20
_MAXIMUM_WAITING: Final = 1 << 17
"""Boundaries that lie behind the last whole chunk: only a stream made of nearly empty members has so many."""


class _Open:
    """A context whose end may still move."""

    __slots__ = ("end", "in_end", "start")

    def __init__(self, start: Boundary) -> None:
        self.start = start
        self.end = start.uncompressed
        self.in_end = 0
        """In the gzip stream; right once a boundary behind ``end`` is known."""


class Indexer:
    """Call :meth:`boundary` and :meth:`chunk` in the stream's order, :meth:`passed` in between."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._boundaries: list[Boundary] = []
        self._positions: list[int] = []
        self._contexts: list[_Open] = []
        self._unended: list[_Open] = []
        self._chunks: list[tuple[int, int, int]] = []
        """Of every chunk: place in the tar, size, number of its context."""
        self._spans: list[tuple[int, int]] = []
        """Of the first chunks, as far as they are known: start and end in the gzip stream."""

    def boundary(self, boundary: Boundary) -> None:
        """Raises UnsupportedError."""
        if len(self._boundaries) >= _MAXIMUM_WAITING:
            raise UnsupportedError("the layer's gzip stream is cut into too many pieces to be referred to (oci_ref)")
        self._boundaries.append(boundary)
        self._positions.append(boundary.uncompressed)

    def chunk(self, start: int, size: int) -> None:
        """The next chunk that the blob gets; ``start`` is its place in the tar."""
        first = self._boundaries[bisect_right(self._positions, start) - 1]
        context = self._contexts[-1] if self._contexts else None
        if context is None or self._is_full(context, first, start):
            context = _Open(first)
            self._contexts.append(context)
        if not self._unended or self._unended[-1] is not context:
            self._unended.append(context)
        context.end = start + size
        self._chunks.append((start, size, len(self._contexts) - 1))

    def _is_full(self, context: _Open, first: Boundary, start: int) -> bool:
        begin = context.start
        return first is not begin and (
            first.member != begin.member
            or first.compressed - begin.compressed >= _CONTEXT_COMPRESSED
            or start - begin.uncompressed + self._chunk_size >= _CONTEXT_UNCOMPRESSED
        )

    def passed(self, position: int) -> None:
        """Every chunk that ends in front of ``position`` in the tar has been given: forget what none can need.

        Raises:
            UnsupportedError: a chunk's compressed data is too long for the format.
        """
        self._measure()
        self._unended = [context for context in self._unended if not self._end(context)]
        keep = position - self._chunk_size
        if len(self._spans) < len(self._chunks):
            keep = min(keep, self._chunks[len(self._spans)][0])
        for context in self._unended:
            keep = min(keep, context.end - 1)
        forgotten = bisect_right(self._positions, keep) - 1
        if forgotten > 0:
            del self._boundaries[:forgotten], self._positions[:forgotten]

    def _measure(self) -> None:
        """Chunks that a boundary lies behind; inside a block their compressed places are taken in proportion."""
        while len(self._spans) < len(self._chunks):
            start, size, _ = self._chunks[len(self._spans)]
            if not self._positions or self._positions[-1] < start + size:
                return
            begin = self._compressed(start, bisect_right(self._positions, start))
            end = max(begin + 1, self._compressed(start + size, bisect_left(self._positions, start + size)))
            if end - begin > MAXIMUM_COMPRESSED:
                raise UnsupportedError(f"a chunk of {size} bytes takes {end - begin} bytes of the gzip stream")
            self._spans.append((begin, end))

    def _compressed(self, position: int, following: int) -> int:
        after = self._boundaries[following]
        if after.uncompressed == position:
            return after.compressed
        before = self._boundaries[following - 1]
        share = position - before.uncompressed
        whole = after.uncompressed - before.uncompressed
        return before.compressed + (after.compressed - before.compressed) * share // whole

    def _end(self, context: _Open) -> bool:
        """Find the boundary that a reader of the context must be given the data up to.

        Not one where a member ends or begins just behind the last chunk: ``nydusd`` follows a member's end into the next
        member, and fails if it gets nothing of that.
        """
        for number in range(bisect_left(self._positions, context.end), len(self._boundaries)):
            boundary = self._boundaries[number]
            if boundary.uncompressed > context.end or not (boundary.first or boundary.last):
                context.in_end = boundary.compressed
                return True
        return False

    def finish(self) -> ZranIndex:
        """After the stream's verified end.

        Raises:
            UnsupportedError: a file's last byte is the stream's.
        """
        self._measure()
        if not all(map(self._end, self._unended)):
            raise UnsupportedError(
                "the layer's tar ends without its two zero blocks and cannot be referred to (oci_ref)"
            )
        chunks = []
        position = 0
        for (start, size, number), (begin, end) in zip(self._chunks, self._spans, strict=True):
            offset = start - self._contexts[number].start.uncompressed
            chunks.append(ZranChunk(begin, end - begin, position, size, number, offset))
            position = align(position + size, BLOCK)
        return ZranIndex(chunks, [_context(found) for found in self._contexts])


def _context(found: _Open) -> Context:
    start = found.start
    return Context(
        in_offset=start.compressed,
        out_offset=start.uncompressed,
        in_size=found.in_end - start.compressed,
        out_size=found.end - start.uncompressed,
        byte=start.byte,
        bits=start.bits,
        dictionary=start.window,
    )
