"""Blocks whose codes are made by hand: taken and refused as zlib does."""

from __future__ import annotations

import zlib

import pytest

from drivers.reencoding.gzip_stream import GzipMatches
from shared.errors import CorruptLayerError
from tests.unit.drivers.reencoding.streams import fed


class _Bits:
    def __init__(self) -> None:
        self.value = self.count = 0

    def put(self, *fields: tuple[int, int]) -> _Bits:
        """Value and width of each, as RFC 1951 packs them; a Huffman code reversed by the caller."""
        for value, width in fields:
            self.value |= value << self.count
            self.count += width
        return self

    def dynamic(
        self, literals: dict[int, int], distances: dict[int, int], counts: tuple[int, int] = (286, 30)
    ) -> _Bits:
        """A final dynamic block's head: code lengths of symbols, each sent as a five-bit number."""
        self.put((1, 1), (2, 2), (counts[0] - 257, 5), (counts[1] - 1, 5), (15, 4))
        # Symbols 0 to 15 of four bits each, in the order in which their lengths are sent.
        self.put(*[(0 if symbol > 15 else 4, 3) for symbol in ORDER])
        lengths = [literals.get(symbol, 0) for symbol in range(counts[0])]
        lengths += [distances.get(symbol, 0) for symbol in range(counts[1])]
        return self.put(*[(int(f"{length:04b}"[::-1], 2), 4) for length in lengths])

    def stream(self) -> bytes:
        return self.value.to_bytes((self.count + 7) // 8, "little")


ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
FINAL_STATIC = ((1, 1), (1, 2))
HEADS = {
    "the end of a block alone, in one bit": _Bits().dynamic({256: 1}, {}).put((0, 1)),
    "the other pattern of that bit": _Bits().dynamic({256: 1}, {}).put((1, 1)),
    "an end of two bits, alone": _Bits().dynamic({256: 2}, {}).put((0, 2)),
    "a literal and an end": _Bits().dynamic({97: 1, 256: 1}, {}).put((0, 1), (1, 1)),
    "no end": _Bits().dynamic({97: 1, 98: 1}, {}).put((0, 1)),
    "too many codes": _Bits().dynamic({97: 1, 98: 1, 256: 1}, {}).put((0, 1)),
    "too few codes": _Bits().dynamic({97: 2, 98: 2, 256: 2}, {}).put((0, 2)),
    "codes of all lengths": _Bits()
    .dynamic({**{97 + at: at + 1 for at in range(15)}, 256: 15}, {})
    .put((2**15 - 1, 15)),
    "a match by the only distance": _Bits()
    .dynamic({97: 2, 256: 2, 257: 1}, {0: 1})
    .put((1, 2), (0, 1), (0, 1), (3, 2)),
    "a match by a distance that is none": _Bits().dynamic({97: 2, 256: 2, 257: 1}, {0: 1}).put((1, 2), (0, 1), (1, 1)),
    "a match where there are no distances": _Bits().dynamic({97: 2, 256: 2, 257: 1}, {}).put((1, 2), (0, 1), (0, 1)),
    "distances of two bits, too few": _Bits().dynamic({97: 2, 256: 2, 257: 1}, {0: 2}).put((1, 2), (0, 1), (0, 2)),
    "distances, too many": _Bits().dynamic({97: 2, 256: 2, 257: 1}, {0: 1, 1: 1, 2: 1}).put((1, 2), (0, 1), (0, 1)),
    "a match before the start": _Bits().dynamic({97: 2, 256: 2, 257: 1}, {1: 1}).put((1, 2), (0, 1), (0, 1)),
    "287 literals": _Bits().dynamic({256: 1}, {}, (287, 1)).put((0, 1)),
    "31 distances": _Bits().dynamic({256: 1}, {}, (257, 31)).put((0, 1)),
    "a repeat of nothing": _Bits().put((1, 1), (2, 2), (0, 5), (0, 5), (0, 4), (1, 3), (1, 3), (0, 6), (0, 1), (0, 2)),
    "repeats beyond the last": _Bits()
    .put((1, 1), (2, 2), (0, 5), (0, 5), (0, 4), (0, 3), (1, 3), (1, 3), (0, 3))
    .put(*[(1, 1), (127, 7)] * 2),
    "no codes of code lengths": _Bits().put((1, 1), (2, 2), (0, 5), (0, 5), (0, 4), (0, 12)),
    "static symbol 286": _Bits().put(*FINAL_STATIC, (0b01100011, 8)),
    "static distance 30": _Bits().put(*FINAL_STATIC, (0b10001100, 8), (0b1000000, 7), (0b01111, 5)),
    "a static end": _Bits().put(*FINAL_STATIC, (0, 7)),
    "the kind of block that is none": _Bits().put((1, 1), (3, 2)),
    "stored, empty": _Bits().put((1, 8), (0, 16), (0xFFFF, 16)),
    "stored, with a wrong complement": _Bits().put((1, 8), (0, 16), (0xFFFE, 16)),
}
SOUND = {
    "the end of a block alone, in one bit", "a literal and an end", "codes of all lengths", "a match by the only distance",
    "a static end", "stored, empty",
}  # fmt: skip


@pytest.mark.parametrize("what", HEADS)
def test_codes_are_judged_as_zlib_judges_them(what: str) -> None:
    deflated = HEADS[what].stream()
    judge = zlib.decompressobj(-15)
    try:
        data = judge.decompress(deflated + bytes(8))
        sound = judge.eof
    except zlib.error:
        sound = False
    assert sound == (what in SOUND)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    if sound:
        packed = head + deflated + zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
        assert b"".join(fed(GzipMatches(), packed, 3)) == data
    else:
        with pytest.raises(CorruptLayerError, match=r"invalid|reaches back"):
            list(fed(GzipMatches(), head + deflated + bytes(700), 3))
