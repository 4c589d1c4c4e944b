"""Tampering with a converted layer is found by whoever reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.estargz.layout import FOOTER_SIZE, footer, parse_footer
from drivers.estargz.reader import read_file, read_toc, validate
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from shared.errors import CorruptLayerError
from tests.unit.drivers.layer_blobs import convert, member, ranges, tar

LAYER = tar([member("a", b"first" * 50), member("b", b"second" * 50)])


@given(st.integers(0, (1 << 64) - 1))
def test_footers_round_trip(offset: int) -> None:
    assert len(footer(offset)) == FOOTER_SIZE
    assert parse_footer(footer(offset)) == offset


async def test_a_lazy_read_fetches_one_member() -> None:
    _, blob = await convert(LAYER)
    toc = await read_toc(ranges(blob), len(blob))
    fetched: list[int] = []

    async def counting(start: int, length: int) -> bytes:
        fetched.append(length)
        return blob[start : start + length]

    assert await read_file(counting, toc, "b") == b"second" * 50
    assert len(fetched) == 1
    assert fetched[0] < len(blob) / 2


async def test_a_wrong_table_digest_is_refused() -> None:
    _, blob = await convert(LAYER)
    with pytest.raises(CorruptLayerError, match="annotation says"):
        await read_toc(ranges(blob), len(blob), "sha256:" + "0" * 64)


async def test_every_flipped_byte_of_data_or_table_is_found() -> None:
    made, blob = await convert(LAYER)
    digest = made.descriptor.annotations[ANNOTATION_TOC_DIGEST]
    toc = await read_toc(ranges(blob), len(blob), digest)
    chunk = toc.entries["b"].chunks[0]
    for at in (chunk.offset + 12, chunk.offset + 20, toc.offset + 30, len(blob) - 45):
        damaged = bytearray(blob)
        damaged[at] ^= 0x10
        with pytest.raises(CorruptLayerError):
            await validate(ranges(damaged), len(damaged), digest)


@pytest.mark.parametrize("blob", [b"", b"short", bytes(100), bytes(10) + footer(5000), bytes(100) + footer(0)])
async def test_what_is_no_estargz_is_refused(blob: bytes) -> None:
    with pytest.raises(CorruptLayerError):
        await read_toc(ranges(blob), len(blob))


async def test_a_path_that_is_not_there() -> None:
    _, blob = await convert(LAYER)
    toc = await read_toc(ranges(blob), len(blob))
    with pytest.raises(CorruptLayerError, match="no regular file"):
        await read_file(ranges(blob), toc, "missing")
