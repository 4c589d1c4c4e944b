"""The table of contents: JSON made as bytes, one line an entry, kept deflated while it grows.

The deflated segments are the TOC member's own body, so that the table costs a few MB a million entries' worth of text, and
nothing is left to compress at the end. A table in which names turned out to occur twice is rewritten once, segment by segment.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from drivers.api import UnconvertibleLayerError
from drivers.estargz.layout import GZIP_HEADER, TOC_NAME, regular_header
from drivers.tar.entry import clean

_HEAD: Final = b'{"version":1,"entries":[\n'
_TAIL: Final = b"\n]}"
_LINE_END: Final = b",\n"
_CHUNK_LINE: Final = b'{"type":"chunk"'
"""What a further chunk's line begins with; all other lines begin with the name."""
_SEGMENT: Final = 1 << 20
_LEVEL: Final = 4
_WINDOW_BITS: Final = 12
"""4 KiB, a dozen lines."""
_MEMORY_LEVEL: Final = 7


class Names:
    """Which paths a layer has had: finds paths that occur twice and hard links that lead nowhere, in 8 bytes an entry.

    64-bit hashes, seeded anew in every process: what they suspect is checked against the names themselves.
    """

    _BITS: Final = 1 << 25

    def __init__(self) -> None:
        self._hashes = array("q")
        self._bitmap = bytearray(self._BITS >> 3)
        self._suspects: set[int] = set()
        self._targets: dict[int, str] = {}

    def add(self, path: str) -> None:
        """The next entry's cleaned path, in order of the table."""
        hashed = hash(path)
        self._hashes.append(hashed)
        bit = hashed & (self._BITS - 1)
        index, mask = bit >> 3, 1 << (bit & 7)
        if self._bitmap[index] & mask:
            self._suspects.add(hashed)
        else:
            self._bitmap[index] |= mask

    def link(self, target: str) -> None:
        """The cleaned target of the hard link that was added last; it must have come before.

        Raises:
            UnconvertibleLayerError: it has not, or is the link itself, which readers would follow for ever.
        """
        hashed = hash(target)
        bit = hashed & (self._BITS - 1)
        if not self._bitmap[bit >> 3] & (1 << (bit & 7)) or hashed == self._hashes[-1]:
            raise _dangling(target)
        self._targets.setdefault(hashed, target)

    def suspects(self) -> dict[int, int]:
        """Entry number → hash, for every entry whose path may occur more than once; also checks the links.

        Raises:
            UnconvertibleLayerError: a hard link's target is not in the layer.
        """
        if self._targets:
            missing = set(self._targets).difference(self._hashes)
            if missing:
                raise _dangling(min(self._targets[hashed] for hashed in missing))
        if not self._suspects:
            return {}
        suspects = self._suspects
        found = {number: hashed for number, hashed in enumerate(self._hashes) if hashed in suspects}
        times = Counter(found.values())  # most only share a bit with another
        return {number: hashed for number, hashed in found.items() if times[hashed] > 1}

    def is_target(self, path: str) -> bool:
        return hash(path) in self._targets


def _dangling(target: str) -> UnconvertibleLayerError:
    return UnconvertibleLayerError(f"a hard link's target, {target[:200]!r}, does not come before it in the same layer")


@dataclass(frozen=True, slots=True)
class FinishedToc:
    """The TOC member's pieces and digests."""

    member: list[bytes]
    """One whole gzip member when joined: tar header, JSON, padding and the end of the archive."""
    digest: str
    """``sha256:`` of the JSON."""
    padded_size: int
    """Bytes that the member inflates to."""


class TocWriter:
    """Gathers lines; :meth:`finish` gives the member.

    Args:
        names: fed in the same order, one name an entry.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._body = _DeflatedLines()

    def add(self, lines: Iterable[bytes]) -> None:
        """Complete JSON objects without newlines."""
        self._body.extend(lines)

    def finish(self, diff: Any) -> FinishedToc:
        """Close the table; ``diff`` (a hash of the whole uncompressed layer) takes its bytes.

        Raises:
            UnconvertibleLayerError: links or duplicates that the format cannot hold.
        """
        suspects = self._names.suspects()
        if suspects:
            superseded = self._superseded(suspects)
            if superseded:
                self._body = self._rewritten(superseded)
        segments, size = self._body.finish()
        header = regular_header(TOC_NAME, size)
        end = bytes(-size % 512 + 1024)
        digest = hashlib.sha256()
        crc = zlib.crc32(header)
        diff.update(header)
        for piece in _inflated(segments):
            digest.update(piece)
            diff.update(piece)
            crc = zlib.crc32(piece, crc)
        diff.update(end)
        crc = zlib.crc32(end, crc)
        padded_size = len(header) + size + len(end)
        trailer = crc.to_bytes(4, "little") + (padded_size & 0xFFFFFFFF).to_bytes(4, "little")
        member = [GZIP_HEADER, _deflate(header), *segments, _deflate(end, last=True), trailer]
        return FinishedToc(member, f"sha256:{digest.hexdigest()}", padded_size)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Entry number and line; further chunks carry their file's number."""
        number = -1
        for line in self._body.lines():
            if not line.startswith(_CHUNK_LINE):
                number += 1
            yield number, line

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

    def _rewritten(self, superseded: set[int]) -> _DeflatedLines:
        """The table without superseded entries; names of owners move on to the next entry of the same owner."""
        out = _DeflatedLines()
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


class _DeflatedLines:
    """The JSON text, deflated a segment at a time; every segment ends at a line end and at a byte boundary."""

    def __init__(self) -> None:
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
        if size >= _SEGMENT:
            self._flush()

    def _flush(self) -> None:
        text = self._prefix + _LINE_END.join(self._pending)
        self._prefix = _LINE_END
        self._pending = []
        self._pending_size = 0
        self._size += len(text)
        self._segments.append(_deflate(text))

    def finish(self) -> tuple[list[bytes], int]:
        """Segments that inflate to the whole text when joined, and its size."""
        text = (self._prefix + _LINE_END.join(self._pending) if self._pending or not self._segments else b"") + _TAIL
        self._pending = []
        self._size += len(text)
        self._segments.append(_deflate(text))
        return self._segments, self._size

    def lines(self) -> Iterator[bytes]:
        """All lines so far."""
        for segment in self._segments:
            text = b"".join(_inflated([segment]))
            text = text.removeprefix(_HEAD).removeprefix(_LINE_END)
            yield from text.split(_LINE_END)
        yield from self._pending


def _deflate(data: bytes, *, last: bool = False) -> bytes:
    """Raw deflate that can stand between others: nothing refers back beyond it, and it ends at a byte boundary.

    The filtered strategy takes no short matches: among hex digests they cost more than they save (a tenth of the table). What
    repeats stands in the lines just before, and a search in these alone is half as long again as fast.
    """
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_FILTERED)
    return deflater.compress(data) + deflater.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _inflated(segments: Iterable[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-15)
    for segment in segments:
        data = segment
        while data:
            yield inflater.decompress(data, _SEGMENT)
            data = inflater.unconsumed_tail
    yield inflater.flush()
