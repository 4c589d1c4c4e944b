"""One layer's way through: read ahead ▸ inflate and cut ▸ hash and compress on all cores ▸ assemble ▸ write.

Every arrow is bounded. What computes runs in worker threads in steps of a few milliseconds, so that a cancelled conversion
leaves no thread behind; what waits is asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from drivers.api import BlobWriter, OpenBlob
from drivers.stargz.assembler import Assembler
from drivers.stargz.batch import Batch
from drivers.stargz.toc import TocWriter
from drivers.stargz.workers import Workers
from shared.errors import first_failure

READ_SIZE: Final = 256 << 10
"""Source bytes a step, at least, where the stream gives smaller pieces."""
READ_AHEAD: Final = 8
"""Steps of source bytes held."""

_Batch = TypeVar("_Batch", bound=Batch)
_Cut_co = TypeVar("_Cut_co", bound=Batch, covariant=True)


class Cutter(Protocol[_Cut_co]):
    """Feed compressed source bytes, take batches, in order. Every iterator is exhausted before the next call."""

    def start(self) -> Iterator[_Cut_co]:
        """What comes before the source's own entries; once."""
        ...

    def feed(self, data: bytes) -> Iterator[_Cut_co]:
        """Batches come as they fill."""
        ...

    def finish(self) -> Iterator[_Cut_co]:
        """After the last byte."""
        ...


async def write_members(
    open_blob: OpenBlob,
    writer: BlobWriter,
    cutter: Cutter[_Batch],
    toc: TocWriter,
    *,
    make: Callable[[_Batch], asyncio.Future[_Batch]],
    workers: Workers,
) -> Assembler:
    """Write all members of a layer.

    Args:
        open_blob: the source layer.
        writer: of the new one; what follows the members is for the caller to write.
        cutter: of the format.
        toc: takes the table's lines.
        make: queues what makes a batch's members.
        workers: do the steps, and share out the memory.

    Raises:
        UnconvertibleLayerError: the layer should stay as it is.
        CorruptLayerError, LimitExceededError, UnsupportedError: of the source; and whatever ``open_blob`` and ``writer`` raise.
    """
    layer = _Layer(cutter, make, toc, writer, workers)
    try:
        async with asyncio.TaskGroup() as tasks:
            source: asyncio.Queue[bytes | None] = asyncio.Queue(READ_AHEAD)
            tasks.create_task(_read(open_blob, source))
            tasks.create_task(layer.cut(source))
            tasks.create_task(layer.assemble())
    except BaseExceptionGroup as group:
        raise first_failure(group) from None
    finally:
        layer.close()
    return layer.assembler


class _Layer(Generic[_Batch]):
    """The state of one conversion under way."""

    def __init__(
        self,
        cutter: Cutter[_Batch],
        make: Callable[[_Batch], asyncio.Future[_Batch]],
        toc: TocWriter,
        writer: BlobWriter,
        workers: Workers,
    ) -> None:
        self.assembler = Assembler()
        self._cutter = cutter
        self._make = make
        self._toc = toc
        self._writer = writer
        self._workers = workers
        self._reserved = 0
        # Enough for every compression thread to have a batch in hand and one waiting; one more to be written.
        self._queue: asyncio.Queue[tuple[int, asyncio.Future[_Batch]] | None] = asyncio.Queue(2 * workers.threads + 1)

    async def cut(self, source: asyncio.Queue[bytes | None]) -> None:
        await self._drain(self._cutter.start())
        while (data := await source.get()) is not None:
            await self._drain(self._cutter.feed(data))
        await self._drain(self._cutter.finish())
        await self._queue.put(None)

    async def _drain(self, batches: Iterator[_Batch]) -> None:
        while (batch := await self._workers.step(lambda: next(batches, None))) is not None:
            size = batch.footprint
            await self._workers.reserve(size)
            self._reserved += size
            await self._queue.put((size, self._make(batch)))

    async def assemble(self) -> None:
        while (item := await self._queue.get()) is not None:
            size, future = item
            batch = await future
            data = await self._workers.step(lambda batch=batch: self._take(batch))  # type: ignore[misc]
            del batch, future, item
            await self._writer.write(data)
            self._reserved -= size
            self._workers.release(size)

    def _take(self, batch: _Batch) -> bytes:
        data, lines = self.assembler.take(batch)
        self._toc.add(lines)
        return data

    def close(self) -> None:
        """Give back what an aborted conversion still holds."""
        self._workers.release(self._reserved)
        self._reserved = 0
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if item is not None:
                item[1].cancel()


async def _read(open_blob: OpenBlob, source: asyncio.Queue[bytes | None]) -> None:
    async with open_blob() as blob:
        async for data in gathered(blob):
            await source.put(data)
    await source.put(None)


async def gathered(blob: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pieces of at least :data:`READ_SIZE` bytes: a step costs a hundred microseconds however small it is."""
    pieces: list[bytes] = []
    size = 0
    async for data in blob:
        pieces.append(data)
        size += len(data)
        if size >= READ_SIZE:
            yield b"".join(pieces)
            pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)
