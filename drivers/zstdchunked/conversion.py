"""One layer to zstd:chunked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from drivers.api import BlobWriter, OpenBlob
from drivers.limits import LayerLimits
from drivers.stargz.batch import Batch
from drivers.stargz.names import Names
from drivers.stargz.pipeline import write_members
from drivers.stargz.toc import TocWriter
from drivers.stargz.workers import Workers
from drivers.zstdchunked.cutter import Cutter
from drivers.zstdchunked.frames import FramedSegments, make
from drivers.zstdchunked.options import ZstdChunkedOptions
from drivers.zstdchunked.toc import FinishedToc, toc_frames
from shared.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Assembled:
    """What a layer became, all of it written but not committed."""

    diff_id: Digest
    """The source's own."""
    uncompressed: int
    """Bytes of the layer's tar."""
    toc: FinishedToc


async def build(
    open_blob: OpenBlob, writer: BlobWriter, option: ZstdChunkedOptions, limits: LayerLimits, workers: Workers
) -> Assembled:
    """Write a layer's zstd:chunked form to ``writer``.

    Raises:
        UnconvertibleLayerError: the layer should stay as it is.
        CorruptLayerError, LimitExceededError, UnsupportedError: of the source; and whatever ``open_blob`` and ``writer`` raise.
    """
    names = Names()
    cutter = Cutter(option.chunk_size, limits, names)
    lines = TocWriter(names, FramedSegments())

    def queue(batch: Batch) -> asyncio.Future[Batch]:
        return workers.compress(partial(make, batch, option.compression_level))

    layer = await write_members(open_blob, writer, cutter, lines, make=queue, workers=workers)
    toc = await workers.step(lambda: toc_frames(*lines.finish(), layer.offset))
    for frame in toc.frames:
        await writer.write(frame)
    return Assembled(Digest(f"sha256:{layer.diff.hexdigest()}"), layer.uncompressed, toc)
