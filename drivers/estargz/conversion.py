"""One layer to eStargz, or only inflated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from drivers.api import BlobWriter, OpenBlob, UnconvertibleLayerError
from drivers.estargz.cutter import Cutter
from drivers.estargz.layout import footer
from drivers.estargz.options import EstargzOptions
from drivers.estargz.planner import Planner
from drivers.estargz.priorities import Prioritized, PriorityScan
from drivers.estargz.toc import DeflatedSegments, FinishedToc, toc_member
from drivers.estargz.workers import Workers
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.stargz.names import Names
from drivers.stargz.pipeline import gathered, write_members
from drivers.stargz.toc import TocWriter
from drivers.tar.entry import clean
from shared.oci.digest import Digest

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
    lines = TocWriter(names, DeflatedSegments())
    layer = await write_members(open_blob, writer, cutter, lines, make=workers.make, workers=workers)
    toc: FinishedToc = await workers.step(lambda: toc_member(*lines.finish(), layer.diff))
    for piece in toc.member:
        await writer.write(piece)
    await writer.write(footer(layer.offset))
    diff_id = Digest(f"sha256:{layer.diff.hexdigest()}")
    return Assembled(diff_id, toc.digest, layer.uncompressed + toc.padded_size)


async def _prioritized(
    open_blob: OpenBlob, option: EstargzOptions, limits: LayerLimits, workers: Workers
) -> list[Prioritized]:
    paths = [clean(path) for path in option.prioritized_files]
    wanted = list(paths)
    for _ in range(PRIORITY_PASSES):
        scan = PriorityScan(wanted, limits)
        async with open_blob() as blob:
            async for data in gathered(blob):
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
        async for data in gathered(blob):
            await _write_all(inflater.feed(data), writer, workers)
    await _write_all(inflater.finish(), writer, workers)


async def _write_all(pieces: Iterator[bytes], writer: BlobWriter, workers: Workers) -> None:
    while (piece := await workers.step(lambda: next(pieces, None))) is not None:
        await writer.write(piece)
