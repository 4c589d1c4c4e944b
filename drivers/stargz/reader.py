"""Reads a layer by ranges: the table, single files lazily, and the whole layer against its promises."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import orjson

from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.tar.entry import clean
from shared.errors import CorruptLayerError

ReadRange = Callable[[int, int], Awaitable[bytes]]
"""``(start, length)`` → exactly those bytes of the blob."""

MAXIMUM_TOC: Final = 1 << 30
"""Bytes of the table, uncompressed."""
_TYPES: Final = frozenset(("dir", "reg", "symlink", "hardlink", "char", "block", "fifo"))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file's data in a member of its own."""

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
    """Where the last chunk's member ends at the latest."""
    size: int
    """Bytes of the JSON."""

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


class BlobFormat(Protocol):
    """What compresses the members, and where the table is."""

    name: ClassVar[str]
    footer_size: ClassVar[int]

    def table(self, footer: bytes, size: int) -> tuple[int, int]:
        """Where the table's bytes begin and end, by the last :attr:`footer_size` bytes of a blob of ``size``.

        Raises:
            CorruptLayerError: no footer of the format, or one that cannot be.
        """
        ...

    def text(self, table: bytes) -> bytes | memoryview:
        """The table's JSON.

        Raises:
            CorruptLayerError: the table is damaged.
            LimitExceededError: it is larger than :data:`MAXIMUM_TOC`.
        """
        ...

    def data(self, members: bytes, size: int) -> bytes:
        """At most ``size`` bytes that the first of ``members`` begins with.

        Raises:
            ValueError: it is damaged.
        """
        ...


class Reader:
    """Reads one format.

    Args:
        form: the format.
    """

    def __init__(self, form: BlobFormat) -> None:
        self._form = form

    async def read_toc(self, read: ReadRange, size: int, digest: str | None = None) -> Toc:
        """Two ranges: the footer, then the table.

        Args:
            read: of the blob.
            size: bytes of the blob.
            digest: what the layer's annotation says; None takes any.

        Raises:
            CorruptLayerError: not of the format, a wrong digest, or a table that contradicts itself.
            LimitExceededError: the table is larger than :data:`MAXIMUM_TOC`.
        """
        form = self._form
        if size < form.footer_size:
            raise CorruptLayerError(f"the blob is too short for a footer of {form.name}")
        start, end = form.table(await read(size - form.footer_size, form.footer_size), size)
        return await asyncio.to_thread(self._parse, await read(start, end - start), start, digest)

    async def read_file(self, read: ReadRange, toc: Toc, path: str) -> bytes:
        """A file's data: one range and one inflate a chunk, each checked against its digest.

        Raises:
            CorruptLayerError: there is no such file, or its data is not what the table says.
        """
        entry = toc.resolve(path)
        bounds = _bounds(toc)
        pieces = []
        for chunk in entry.chunks:
            members = await read(chunk.offset, bounds[chunk.offset] - chunk.offset)
            pieces.append(self._chunk(members, chunk, entry.name))
        data = b"".join(pieces)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != entry.digest:
            raise CorruptLayerError(f"{entry.name!r} does not have its digest")
        return data

    async def validate(self, read: ReadRange, size: int, toc_digest: str) -> tuple[Toc, str]:
        """Read the whole layer and check every chunk; gives the table and the diff ID.

        Raises:
            CorruptLayerError: something is not as promised.
        """
        toc = await self.read_toc(read, size, toc_digest)
        bounds = _bounds(toc)
        for entry in toc.entries.values():
            whole = hashlib.sha256()
            for chunk in entry.chunks:
                members = await read(chunk.offset, bounds[chunk.offset] - chunk.offset)
                whole.update(await asyncio.to_thread(self._chunk, members, chunk, entry.name))
            if entry.type == "reg" and f"sha256:{whole.hexdigest()}" != entry.digest:
                raise CorruptLayerError(f"{entry.name!r} does not have its digest")
        diff = hashlib.sha256()
        inflater = Inflater(LayerLimits())
        for start in range(0, size, _STEP):
            data = await read(start, min(_STEP, size - start))
            await asyncio.to_thread(_update, diff, inflater.feed(data))
        _update(diff, inflater.finish())
        return toc, f"sha256:{diff.hexdigest()}"

    def _chunk(self, members: bytes, chunk: Chunk, name: str) -> bytes:
        try:
            data = self._form.data(members, chunk.size) if chunk.size else b""
        except ValueError as error:
            raise CorruptLayerError(f"{name!r} is damaged at byte {chunk.position}: {error}") from error
        if len(data) != chunk.size or f"sha256:{hashlib.sha256(data).hexdigest()}" != chunk.digest:
            raise CorruptLayerError(f"{name!r} does not have its digest at byte {chunk.position}")
        return data

    def _parse(self, table: bytes, offset: int, digest: str | None) -> Toc:
        text = self._form.text(table)
        found = f"sha256:{hashlib.sha256(text).hexdigest()}"
        if digest is not None and found != digest:
            raise CorruptLayerError(f"the table's digest is {found}, its annotation says {digest}")
        try:
            rows = orjson.loads(text)["entries"]
            entries = _checked(dict(_entries(rows)), offset)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise CorruptLayerError(f"the table is malformed: {error!r}"[:500]) from error
        return Toc(entries, found, offset, len(text))


_STEP: Final = 1 << 20


def _update(diff: Any, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        diff.update(piece)


def _bounds(toc: Toc) -> dict[int, int]:
    """Where each member's bytes end at the latest: at the next one that the table knows."""
    offsets = sorted({chunk.offset for entry in toc.entries.values() for chunk in entry.chunks})
    return dict(zip(offsets, (*offsets[1:], toc.offset), strict=False))  # there may be none


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
