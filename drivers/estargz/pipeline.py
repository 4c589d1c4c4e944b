"""One layer's way through: read ahead ▸ inflate and cut ▸ hash and compress on all cores ▸ assemble ▸ write.

Every arrow is bounded. What computes runs in worker threads in steps of a few milliseconds, so that a cancelled conversion
leaves no thread behind; what waits is asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from drivers.api import BlobWriter, OpenBlob, UnconvertibleLayerError
from drivers.estargz.batch import Batch
from drivers.estargz.cutter import Assembler, Cutter
from drivers.estargz.layout import footer
from drivers.estargz.options import EstargzOptions
from drivers.estargz.planner import Planner
from drivers.estargz.priorities import Prioritized, PriorityScan
from drivers.estargz.toc import FinishedToc, Names, TocWriter
from drivers.estargz.workers import Workers
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.tar.entry import clean
from shared.errors import first_failure
from shared.oci.digest import Digest

READ_SIZE: Final = 256 << 10
"""Source bytes a step, at least, where the stream gives smaller pieces."""
READ_AHEAD: Final = 8
"""Steps of source bytes held."""
PRIORITY_PASSES: Final = 4
"""Over a layer at most, while hard links among the prioritised files lead to others."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """What a layer became, all of it written but not committed."""

    diff_id: Digest
    toc_digest: str
    uncompressed: int
    """Bytes of the layer's tar, table included."""


async def build(
    open_blob: OpenBlob, writer: BlobWriter, option: EstargzOptions, limits: LayerLimits, workers: Workers
) -> Assembled:
    """Write a layer's eStargz form to ``writer``.

    Raises:
        UnconvertibleLayerError: the layer should stay as it is.
        CorruptLayerError, LimitExceededError, UnsupportedError: of the source; and whatever ``open_blob`` and ``writer`` raise.
    """
    prioritized = await _prioritized(open_blob, option, limits, workers) if option.prioritized_files else None
    names = Names()
    planner = Planner(option.estargz_compression_level, workers.encoder)
    cutter = Cutter(option.chunk_size, limits, names, prioritized, planner)
    layer = _Layer(cutter, TocWriter(names), writer, workers)
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
    return await layer.finish()


class _Layer:
    """The state of one conversion under way."""

    def __init__(self, cutter: Cutter, toc: TocWriter, writer: BlobWriter, workers: Workers) -> None:
        self._cutter = cutter
        self._toc = toc
        self._assembler = Assembler()
        self._writer = writer
        self._workers = workers
        self._reserved = 0
        # Enough for every compression thread to have a batch in hand and one waiting; one more to be written.
        self._queue: asyncio.Queue[tuple[int, asyncio.Future[Batch]] | None] = asyncio.Queue(2 * workers.threads + 1)

    async def cut(self, source: asyncio.Queue[bytes | None]) -> None:
        await self._drain(self._cutter.start())
        while (data := await source.get()) is not None:
            await self._drain(self._cutter.feed(data))
        await self._drain(self._cutter.finish())
        await self._queue.put(None)

    async def _drain(self, batches: Iterator[Batch]) -> None:
        while (batch := await self._workers.step(lambda: next(batches, None))) is not None:
            size = batch.footprint
            await self._workers.reserve(size)
            self._reserved += size
            await self._queue.put((size, self._workers.compress(batch)))

    async def assemble(self) -> None:
        while (item := await self._queue.get()) is not None:
            size, future = item
            batch = await future
            data = await self._workers.step(lambda batch=batch: self._take(batch))  # type: ignore[misc]
            del batch, future, item
            await self._writer.write(data)
            self._reserved -= size
            self._workers.release(size)

    def _take(self, batch: Batch) -> bytes:
        data, lines = self._assembler.take(batch)
        self._toc.add(lines)
        return data

    async def finish(self) -> Assembled:
        assembler = self._assembler
        toc: FinishedToc = await self._workers.step(lambda: self._toc.finish(assembler.diff))
        for piece in toc.member:
            await self._writer.write(piece)
        await self._writer.write(footer(assembler.offset))
        diff_id = Digest(f"sha256:{assembler.diff.hexdigest()}")
        return Assembled(diff_id, toc.digest, assembler.uncompressed + toc.padded_size)

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
        async for data in _gathered(blob):
            await source.put(data)
    await source.put(None)


async def _gathered(blob: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
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


async def _prioritized(
    open_blob: OpenBlob, option: EstargzOptions, limits: LayerLimits, workers: Workers
) -> list[Prioritized]:
    paths = [clean(path) for path in option.prioritized_files]
    wanted = list(paths)
    for _ in range(PRIORITY_PASSES):
        scan = PriorityScan(wanted, limits)
        async with open_blob() as blob:
            async for data in _gathered(blob):
                await workers.step(lambda scan=scan, data=data: scan.feed(data))  # type: ignore[misc]
        await workers.step(scan.finish)
        missing = scan.missing_targets()
        if not missing:
            return scan.order(paths)
        wanted += missing
    message = f"hard links of prioritised files lead on and on: {missing[0][:200]!r}"
    raise UnconvertibleLayerError(message)


async def inflate(open_blob: OpenBlob, writer: BlobWriter, limits: LayerLimits, workers: Workers) -> None:
    """``uncompress``: write the layer's tar as it is.

    Raises:
        CorruptLayerError, LimitExceededError, UnsupportedError: of the source.
    """
    inflater = Inflater(limits)
    async with open_blob() as blob:
        async for data in _gathered(blob):
            await _write_all(inflater.feed(data), writer, workers)
    await _write_all(inflater.finish(), writer, workers)


async def _write_all(pieces: Iterator[bytes], writer: BlobWriter, workers: Workers) -> None:
    while (piece := await workers.step(lambda: next(pieces, None))) is not None:
        await writer.write(piece)
