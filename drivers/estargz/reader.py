"""Reads an eStargz blob by ranges: the table, single files lazily, and the whole layer against its promises."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from drivers.estargz.layout import FOOTER_SIZE, TOC_NAME, parse_footer
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.tar.entry import TarEntry, clean
from drivers.tar.parser import TarParser
from shared.errors import CorruptLayerError, LimitExceededError

ReadRange = Callable[[int, int], Awaitable[bytes]]
"""``(start, length)`` → exactly those bytes of the blob."""

MAXIMUM_TOC: Final = 1 << 30
"""Bytes of the table, uncompressed."""
_TYPES: Final = frozenset(("dir", "reg", "symlink", "hardlink", "char", "block", "fifo"))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file's data in a gzip member of its own."""

    offset: int
    """Of the member in the blob."""
    position: int
    """Of the data in the file."""
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class TocEntry:
    """One path. ``raw`` has the fields that are for display or extraction only."""

    name: str
    type: str
    size: int
    link: str
    digest: str
    chunks: tuple[Chunk, ...]
    raw: Mapping[str, Any]

    @property
    def xattrs(self) -> dict[str, bytes]:
        """Raises ``CorruptLayerError`` for what is no base64."""
        try:
            return {key: b64decode(value) for key, value in self.raw.get("xattrs", {}).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise CorruptLayerError(f"{self.name!r} has malformed xattrs") from error


@dataclass(frozen=True, slots=True)
class Toc:
    """The table, by cleaned path, in its own order."""

    entries: Mapping[str, TocEntry]
    digest: str
    """``sha256:`` of the JSON as stored: what the layer's annotation names."""
    offset: int
    """Of the table's member: where the last chunk's member ends at the latest."""

    def resolve(self, path: str) -> TocEntry:
        """A regular file, through hard links.

        Raises:
            CorruptLayerError: there is none, or the links go round.
        """
        entry = self.entries.get(clean(path))
        for _ in range(len(self.entries)):
            if entry is None or entry.type != "hardlink":
                break
            entry = self.entries.get(clean(entry.link))
        if entry is None or entry.type != "reg":
            raise CorruptLayerError(f"the layer has no regular file {path!r}")
        return entry


async def read_toc(read: ReadRange, size: int, digest: str | None = None) -> Toc:
    """Two ranges: the footer, then the table.

    Args:
        read: of the blob.
        size: bytes of the blob.
        digest: what the layer's annotation says; None takes any.

    Raises:
        CorruptLayerError: no eStargz, a wrong digest, or a table that contradicts itself.
        LimitExceededError: the table is larger than :data:`MAXIMUM_TOC`.
    """
    if size < FOOTER_SIZE:
        raise CorruptLayerError("the blob is too short for an eStargz footer")
    offset = parse_footer(await read(size - FOOTER_SIZE, FOOTER_SIZE))
    if not 0 <= offset < size - FOOTER_SIZE:
        raise CorruptLayerError(f"the footer puts the table at byte {offset} of {size}")
    member = await read(offset, size - FOOTER_SIZE - offset)
    return await asyncio.to_thread(_parse, member, offset, digest)


async def read_file(read: ReadRange, toc: Toc, path: str) -> bytes:
    """A file's data: one range and one inflate a chunk, each checked against its digest.

    Raises:
        CorruptLayerError: there is no such file, or its data is not what the table says.
    """
    entry = toc.resolve(path)
    bounds = _bounds(toc)
    pieces = []
    for chunk in entry.chunks:
        member = await read(chunk.offset, bounds[chunk.offset] - chunk.offset)
        pieces.append(_chunk(member, chunk, entry.name))
    data = b"".join(pieces)
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != entry.digest:
        raise CorruptLayerError(f"{entry.name!r} does not have its digest")
    return data


async def validate(read: ReadRange, size: int, toc_digest: str) -> tuple[Toc, str]:
    """Read the whole layer and check every chunk; gives the table and the diff ID.

    Raises:
        CorruptLayerError: something is not as promised.
    """
    toc = await read_toc(read, size, toc_digest)
    bounds = _bounds(toc)
    for entry in toc.entries.values():
        whole = hashlib.sha256()
        for chunk in entry.chunks:
            member = await read(chunk.offset, bounds[chunk.offset] - chunk.offset)
            whole.update(await asyncio.to_thread(_chunk, member, chunk, entry.name))
        if entry.type == "reg" and f"sha256:{whole.hexdigest()}" != entry.digest:
            raise CorruptLayerError(f"{entry.name!r} does not have its digest")
    diff = hashlib.sha256()
    inflater = Inflater(LayerLimits())
    for start in range(0, size, _STEP):
        data = await read(start, min(_STEP, size - start))
        await asyncio.to_thread(_update, diff, inflater.feed(data))
    _update(diff, inflater.finish())
    return toc, f"sha256:{diff.hexdigest()}"


_STEP: Final = 1 << 20


def _update(diff: Any, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        diff.update(piece)


def _chunk(member: bytes, chunk: Chunk, name: str) -> bytes:
    try:
        data = zlib.decompressobj(31).decompress(member, chunk.size) if chunk.size else b""
    except zlib.error as error:
        raise CorruptLayerError(f"{name!r} is damaged at byte {chunk.position}: {error}") from error
    if len(data) != chunk.size or f"sha256:{hashlib.sha256(data).hexdigest()}" != chunk.digest:
        raise CorruptLayerError(f"{name!r} does not have its digest at byte {chunk.position}")
    return data


def _bounds(toc: Toc) -> dict[int, int]:
    """Where each member's bytes end at the latest: at the next one that the table knows."""
    offsets = sorted({chunk.offset for entry in toc.entries.values() for chunk in entry.chunks})
    return dict(zip(offsets, [*offsets[1:], toc.offset], strict=True))


def _parse(member: bytes, offset: int, digest: str | None) -> Toc:
    try:
        inflater = zlib.decompressobj(31)
        tar = inflater.decompress(member, MAXIMUM_TOC)
    except zlib.error as error:
        raise CorruptLayerError(f"the table's gzip member is damaged: {error}") from error
    if not inflater.eof:
        if len(tar) >= MAXIMUM_TOC:
            raise LimitExceededError(f"the table is larger than {MAXIMUM_TOC} bytes", limit="toc_size")
        raise CorruptLayerError("the table's gzip member is cut")
    events = list(TarParser(LayerLimits()).feed(tar))
    head = events[0] if events else None
    if not isinstance(head, TarEntry) or head.name != TOC_NAME or len(events) != 2:
        raise CorruptLayerError(f"the table's member does not hold {TOC_NAME} alone")
    text = events[1]
    assert isinstance(text, memoryview)  # noqa: S101  a whole tar was fed: the second event is the payload
    found = f"sha256:{hashlib.sha256(text).hexdigest()}"
    if digest is not None and found != digest:
        raise CorruptLayerError(f"the table's digest is {found}, its annotation says {digest}")
    try:
        rows = orjson.loads(text)["entries"]
        entries = _checked(dict(_entries(rows)), offset)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise CorruptLayerError(f"the table is malformed: {error!r}"[:500]) from error
    return Toc(entries, found, offset)


def _entries(rows: list[dict[str, Any]]) -> Iterator[tuple[str, TocEntry]]:
    """Rows of a file and of its further chunks, joined."""
    position = 0
    while position < len(rows):
        row = rows[position]
        position += 1
        kind, size = row["type"], int(row.get("size", 0))
        if kind not in _TYPES or size < 0:
            raise ValueError(f"an entry of type {kind!r} and size {size}")
        pieces = [row] if kind == "reg" and size else []
        while position < len(rows) and rows[position]["type"] == "chunk":
            if not pieces or rows[position]["name"] != row["name"]:
                raise ValueError(f"a chunk of {rows[position]['name']!r} away from its file")
            pieces.append(rows[position])
            position += 1
        chunks = tuple(
            Chunk(piece["offset"], piece.get("chunkOffset", 0), end - piece.get("chunkOffset", 0), piece["chunkDigest"])
            for piece, end in zip(pieces, [*(piece["chunkOffset"] for piece in pieces[1:]), size], strict=bool(pieces))
        )
        yield (
            clean(row["name"]),
            TocEntry(row["name"], kind, size, row.get("linkName", ""), row.get("digest", ""), chunks, row),
        )


def _checked(entries: dict[str, TocEntry], end: int) -> dict[str, TocEntry]:
    """Chunks lie one after another in their files and rise in the blob; hard links resolve."""
    before = -1
    for path, entry in entries.items():
        position = 0
        for chunk in entry.chunks:
            if chunk.position != position or chunk.size <= 0 or not before < chunk.offset < end:
                raise CorruptLayerError(f"the chunks of {path!r} do not follow each other")
            position += chunk.size
            before = chunk.offset
        if entry.type == "hardlink" and clean(entry.link) not in entries:
            raise CorruptLayerError(f"{path!r} links to {entry.link!r}, which is not in the layer")
    return entries
