"""One layer's pipeline: a walker thread reads the tar, a pool compresses, the event loop writes in order.

Memory is bounded by the batches in flight: the walker waits for a free place before it hands on the next one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from drivers.api import BlobWriter
from drivers.nydus.blob.assembler import BlobAssembler, Ending, PackedBatch
from drivers.nydus.compression import compress_each, digest_each
from drivers.nydus.feed import in_own_thread
from drivers.nydus.parameters import Parameters
from drivers.nydus.tree import Inode

BATCH_BYTES = 1 << 20
_BATCH_CHUNKS = 1024
"""Small files share a job: a job's own cost is that of compressing about ten of them."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The reading of one tar."""

    run: Callable[[ChunkSink], Inode]
    """For a thread of its own: gives every file's content to the sink in chunks, returns the layer's root."""
    abandon: Callable[[], None]
    """Makes ``run`` end soon, wherever it waits."""


class AbandonedError(Exception):
    """Raised in the walker's thread when nobody wants its chunks any more."""


class Batch:
    """Chunks for one job, each with its file."""

    __slots__ = ("chunks", "inodes")

    def __init__(self) -> None:
        self.inodes: list[Inode] = []
        self.chunks: list[bytes] = []


class ChunkSink:
    """The walker's side. ``put`` blocks while enough is in flight."""

    def __init__(self, submit: Callable[[Batch], None]) -> None:
        self._submit = submit
        self._batch = Batch()
        self._bytes = 0

    def put(self, inode: Inode, chunk: bytes) -> None:
        """The next chunk of ``inode``; chunks of one file come in order, without others between them."""
        batch = self._batch
        batch.inodes.append(inode)
        batch.chunks.append(chunk)
        self._bytes += len(chunk)
        if self._bytes >= BATCH_BYTES or len(batch.chunks) >= _BATCH_CHUNKS:
            self.flush()

    def flush(self) -> None:
        batch = self._batch
        if batch.chunks:
            self._batch, self._bytes = Batch(), 0
            self._submit(batch)


class LayerPipeline:
    """Runs once."""

    def __init__(self, parameters: Parameters, pool: Executor, *, in_flight: int) -> None:
        self._parameters = parameters
        self._pool = pool
        self._assembler = BlobAssembler(parameters)
        self._places = threading.Semaphore(in_flight)
        self._abandoned = threading.Event()
        self._jobs: asyncio.Queue[tuple[Batch, Future[PackedBatch]] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    async def run(self, walk: Walk, writer: BlobWriter) -> Ending:
        """Write the whole blob to ``writer`` (without committing it).

        Raises:
            PermanentError, TransientError: of the walk, of the format's limits, of the writer.
        """
        walker = asyncio.create_task(in_own_thread(self._walk, walk))
        try:
            while (job := await self._jobs.get()) is not None:
                batch, future = job
                packed = await asyncio.wrap_future(future)
                data = self._assembler.add(batch.inodes, packed)
                self._places.release()
                if data:
                    await writer.write(data)
            root = await walker
        except BaseException:
            self._abandoned.set()
            self._places.release()
            walk.abandon()
            # The thread ends at its next put or read; its own error, if any, is this one or a consequence of it.
            await asyncio.gather(walker, return_exceptions=True)
            raise
        ending = await asyncio.to_thread(self._assembler.finish, root)
        await writer.write(ending.tail)
        return ending

    def _walk(self, walk: Walk) -> Inode:
        sink = ChunkSink(self._submit)
        try:
            root = walk.run(sink)
            sink.flush()
            return root
        finally:
            self._loop.call_soon_threadsafe(self._jobs.put_nowait, None)

    def _submit(self, batch: Batch) -> None:
        self._places.acquire()
        if self._abandoned.is_set():
            raise AbandonedError
        future = self._pool.submit(self._pack, batch)
        self._loop.call_soon_threadsafe(self._jobs.put_nowait, (batch, future))

    def _pack(self, batch: Batch) -> PackedBatch:
        parameters = self._parameters
        chunks = batch.chunks
        digests = digest_each(chunks, parameters.digester)
        # What the assembler knows stays known, so leaving such data out never changes its decision.
        known = self._assembler.known
        fresh = {digest: chunk for digest, chunk in zip(digests, chunks, strict=True) if digest not in known}
        packed = compress_each(list(fresh.values()), parameters.compressor, parameters.level)
        return PackedBatch(digests, list(map(len, chunks)), dict(zip(fresh, packed, strict=True)))
