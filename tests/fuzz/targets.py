"""What is fuzzed: a name, what reads the bytes, and what must hold."""

from __future__ import annotations

import asyncio
import gzip
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from drivers.estargz.layout import TOC_NAME, footer
from drivers.estargz.reader import read_file, read_toc
from drivers.inflate import PIECE, Inflater
from drivers.limits import LayerLimits
from drivers.reencoding.gzip_stream import GzipMatches, Matches
from drivers.reencoding.members import MemberEncoder
from drivers.tar.entry import TarEntry
from drivers.tar.parser import TarParser
from shared.errors import IcsError
from tests.unit.drivers.layer_blobs import gz, member, ranges, tar

CORPUS = Path(__file__).parent / "corpus"
LIMITS = LayerLimits(layer_size=4 << 20, layer_entries=2000, pax_record=64 << 10)
Target = Callable[[bytes], None]


def read_tar(data: bytes) -> None:
    """Entries and payloads are the same however the stream is cut, and payloads add up."""
    whole, at_once = _entries(data, len(data) or 1)
    pieces, cut = _entries(data, 1 + len(data) % 700)
    assert (whole, at_once) == (pieces, cut)


def _entries(data: bytes, step: int) -> tuple[list[object], str]:
    parser = TarParser(LIMITS)
    found: list[object] = []
    owed = 0
    try:
        for start in range(0, len(data), step):
            for event in parser.feed(data[start : start + step]):
                if isinstance(event, TarEntry):
                    assert owed == 0, "an entry began before the payload of the one before it was whole"
                    owed = event.size
                    found.append((event.name, event.type, event.size, event.link, event.raw))
                else:
                    owed -= len(event)
                    assert owed >= 0, "more payload than the entry's size"
        parser.finish()
    except IcsError as error:
        return found, error.code
    return found, ""


def inflate(data: bytes) -> None:
    """No piece is larger than promised, nothing goes beyond the limit, and sound input is the same however it is cut."""
    whole, at_once = _inflated(data, len(data) or 1)
    pieces, cut = _inflated(data, 1 + len(data) % 300)
    # How much a refused stream gives before, and which of two faults is met first, depends on how it came.
    assert bool(at_once) == bool(cut)
    assert whole == pieces or at_once


def _inflated(data: bytes, step: int, stream: GzipMatches | None = None) -> tuple[bytes, str]:
    inflater = Inflater(LIMITS, gzip=stream)
    out = bytearray()

    def take(pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            assert len(piece) <= 16 * PIECE
            out.extend(piece)
            assert len(out) <= LIMITS.layer_size

    try:
        for start in range(0, len(data), step):
            take(inflater.feed(data[start : start + step]))
        take(inflater.finish())
    except IcsError as error:
        return bytes(out), error.code
    return bytes(out), ""


def reencode(data: bytes) -> None:
    """What it takes, the other reader takes; members hold what it gave, whatever they are told of its matches."""
    stream = GzipMatches()
    content, refused = _inflated(data, 1 + len(data) % 300, stream)
    assert refused or (content, refused) == _inflated(data, len(data) or 1)
    if not content:
        return
    starts = array("I", range(0, len(content), 1 + len(content) // (1 + len(data) % 40)))
    # A few literals, then whatever length and distance.
    lies = b"".join(data[at : at + 1] + bytes(3) + data[at + 1 : at + 5] for at in range(0, len(data) - 4, 5))
    for matches in (stream.matches(0, len(content)), Matches(lies, 0)):
        sizes, members = MemberEncoder().members(content, starts, matches)
        assert sum(sizes) == len(members)
        assert gzip.decompress(members) == content


def read_blob(data: bytes) -> None:
    """A blob that calls itself eStargz: its table, and every file that the table names, until one is refused."""

    async def read() -> None:
        toc = await read_toc(ranges(data), len(data))
        for path, entry in toc.entries.items():
            assert entry.xattrs is not None
            if entry.type == "reg":
                await read_file(ranges(data), toc, path)

    try:
        asyncio.run(read())
    except IcsError:
        return


def read_table(text: bytes) -> None:
    """The JSON of a table, in a blob that is sound apart from it."""
    read_blob(with_table(text))


def with_table(text: bytes) -> bytes:
    """A blob of two members of data, and the table ``text``."""
    head = gz(b"first" * 50) + gz(b"second" * 50)
    return head + gz(tar([member(TOC_NAME, text)])) + footer(len(head))


TARGETS: dict[str, Target] = {
    "tar": read_tar,
    "gzip": inflate,
    "zstd": inflate,
    "reencoding": reencode,
    "estargz": read_blob,
    "toc": read_table,
}


def seeds(target: str) -> list[bytes]:
    """The corpus, in a stable order; gzip's is for all that read it."""
    folder = CORPUS / ("gzip" if target == "reencoding" else target)
    return [path.read_bytes() for path in sorted(folder.iterdir())]
