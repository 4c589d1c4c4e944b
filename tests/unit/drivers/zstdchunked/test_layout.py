"""The footer and the frames around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.zstdchunked.layout import (
    FOOTER_SIZE,
    TablePosition,
    footer,
    frame_content,
    frame_header,
    parse_footer,
)
from shared.errors import CorruptLayerError

numbers = st.integers(0, (1 << 64) - 1)
positions = st.builds(TablePosition, numbers, numbers, numbers)


@given(positions)
def test_footers_round_trip(position: TablePosition) -> None:
    assert len(footer(position)) == FOOTER_SIZE
    assert parse_footer(footer(position)) == position


def test_a_footer_is_the_reference_builders() -> None:
    """Its last 40 bytes, which are all that the reference reader asks for."""
    expected = "502a4d18 28000000 0100000000000000 0200000000000000 0300000000000000 0100000000000000"
    assert footer(TablePosition(1, 2, 3)) == bytes.fromhex(expected) + b"GnUlInUx"
    assert str(TablePosition(1, 2, 3)) == "1:2:3:1"


@given(positions, st.integers(0, FOOTER_SIZE - 1), st.integers(1, 255))
def test_a_damaged_footer_is_refused_or_says_something_else(position: TablePosition, at: int, flip: int) -> None:
    damaged = bytearray(footer(position))
    damaged[at] ^= flip
    try:
        assert parse_footer(bytes(damaged)) != position
    except CorruptLayerError:
        assert not 8 <= at < 32


@pytest.mark.parametrize("data", [b"", b"short", bytes(FOOTER_SIZE), footer(TablePosition(1, 2, 3)) + b"\0"])
def test_what_is_no_footer_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptLayerError, match="does not end in"):
        parse_footer(data)


@given(st.binary(max_size=50))
def test_frames_hold_what_was_put_in(content: bytes) -> None:
    frame = frame_header(len(content)) + content
    assert frame_content(frame) == content
    for other in (frame[:-1], frame + b"x", frame[1:]):
        with pytest.raises(CorruptLayerError):
            frame_content(other)


def test_a_table_larger_than_a_frame_is_refused() -> None:
    with pytest.raises(CorruptLayerError, match="does not fit"):
        frame_header(1 << 32)
