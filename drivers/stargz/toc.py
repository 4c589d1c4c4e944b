"""The table of contents: JSON made as bytes, one line an entry, kept compressed while it grows.

The compressed segments are what the layer's table is made of, so that it costs a few MB a million entries' worth of text, and
nothing is left to compress at the end. A table in which names turned out to occur twice is rewritten once, segment by segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

import orjson

from drivers.api import UnconvertibleLayerError
from drivers.stargz.names import Names
from drivers.tar.entry import clean
from shared.errors import CorruptLayerError

SEGMENT: Final = 1 << 20
"""Bytes of text in each, about."""
_HEAD: Final = b'{"version":1,"entries":[\n'
_TAIL: Final = b"\n]}"
_LINE_END: Final = b",\n"
_CHUNK_LINE: Final = b'{"type":"chunk"'
"""What a further chunk's line begins with; all other lines begin with the name."""


class Segments(Protocol):
    """A compression whose pieces can be joined."""

    def compress(self, text: bytes) -> bytes:
        """A piece that can stand between others: nothing refers back beyond it."""
        ...

    def inflate(self, segments: Iterable[bytes]) -> Iterator[bytes]:
        """The text of joined pieces, no more than about :data:`SEGMENT` a step."""
        ...


class TocWriter:
    """Gathers lines; :meth:`finish` gives the table.

    Args:
        names: fed in the same order, one name an entry.
        segments: how its text is compressed.
    """

    def __init__(self, names: Names, segments: Segments) -> None:
        self._names = names
        self._segments = segments
        self._body = _Lines(segments)

    def add(self, lines: Iterable[bytes]) -> None:
        """Complete JSON objects without newlines."""
        self._body.extend(lines)

    def finish(self) -> tuple[list[bytes], int]:
        """Close the table: its compressed segments, and how many bytes of JSON they hold together.

        Raises:
            CorruptLayerError: a hard link to a directory, which no file system has and no runtime unpacks.
            UnconvertibleLayerError: links or duplicates that the format cannot hold.
        """
        if linked := self._names.linked_directories():
            raise self._corrupt(linked)
        suspects = self._names.suspects()
        if suspects:
            superseded = self._superseded(suspects)
            if superseded:
                self._body = self._rewritten(superseded)
        return self._body.finish()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Entry number and line; further chunks carry their file's number."""
        number = -1
        for line in self._body.lines():
            if not line.startswith(_CHUNK_LINE):
                number += 1
            yield number, line

    def _corrupt(self, linked: set[int]) -> CorruptLayerError:
        for _, line in self._lines():
            if not line.startswith(_CHUNK_LINE):
                entry = orjson.loads(line)
                if entry["type"] == "hardlink" and hash(clean(entry["linkName"])) in linked:
                    return CorruptLayerError(f"{entry['name'][:200]!r} is a hard link to a directory")
        raise AssertionError("a link's target without the link")

    def _superseded(self, suspects: dict[int, int]) -> set[int]:
        """Numbers of the entries that a later one of the same path replaces."""
        last: dict[str, int] = {}
        superseded: set[int] = set()
        previous = -1
        for number, line in self._lines():
            if number == previous or number not in suspects:
                continue
            previous = number
            path = clean(orjson.loads(line)["name"])
            earlier = last.get(path)
            if earlier is not None:
                superseded.add(earlier)
                if self._names.is_target(path):
                    message = f"{path[:200]!r} occurs twice and is the target of a hard link: readers would link the wrong one"
                    raise UnconvertibleLayerError(message)
            last[path] = number
        return superseded

    def _rewritten(self, superseded: set[int]) -> _Lines:
        """The table without superseded entries; names of owners move on to the next entry of the same owner."""
        out = _Lines(self._segments)
        given: tuple[dict[int, str], dict[int, str]] = ({}, {})
        written: tuple[dict[int, str], dict[int, str]] = ({}, {})
        for number, line in self._lines():
            if line.startswith(_CHUNK_LINE):
                if number not in superseded:
                    out.extend((line,))
                continue
            entry = orjson.loads(line)
            changed = False
            for key, name_key, known, told in (
                ("uid", "userName", given[0], written[0]),
                ("gid", "groupName", given[1], written[1]),
            ):
                owner = entry.get(key, 0)
                name = entry.get(name_key) or known.get(owner, "")
                known[owner] = name
                if number not in superseded and name and told.get(owner) != name:
                    told[owner] = name
                    changed = changed or name_key not in entry
                    entry[name_key] = name
            if number not in superseded:
                out.extend((orjson.dumps(entry) if changed else line,))
        return out


class _Lines:
    """The JSON text, compressed a segment at a time; every segment ends at a line end."""

    def __init__(self, segments: Segments) -> None:
        self._compression = segments
        self._segments: list[bytes] = []
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._size = 0
        self._prefix = _HEAD

    def extend(self, lines: Iterable[bytes]) -> None:
        pending = self._pending
        size = self._pending_size
        for line in lines:
            pending.append(line)
            size += len(line)
        self._pending_size = size
        if size >= SEGMENT:
            self._flush()

    def _flush(self) -> None:
        text = self._prefix + _LINE_END.join(self._pending)
        self._prefix = _LINE_END
        self._pending = []
        self._pending_size = 0
        self._size += len(text)
        self._segments.append(self._compression.compress(text))

    def finish(self) -> tuple[list[bytes], int]:
        """Segments that inflate to the whole text when joined, and its size."""
        text = (self._prefix + _LINE_END.join(self._pending) if self._pending or not self._segments else b"") + _TAIL
        self._pending = []
        self._size += len(text)
        self._segments.append(self._compression.compress(text))
        return self._segments, self._size

    def lines(self) -> Iterator[bytes]:
        """All lines so far."""
        for segment in self._segments:
            text = b"".join(self._compression.inflate([segment]))
            text = text.removeprefix(_HEAD).removeprefix(_LINE_END)
            yield from text.split(_LINE_END)
        yield from self._pending
