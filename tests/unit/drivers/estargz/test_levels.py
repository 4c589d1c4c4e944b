"""The level of a member: by its content and by what stands before it in the layer."""

from __future__ import annotations

import random

import pytest

from drivers.estargz.levels import ADAPTIVE, Levels

KIB = 1 << 10
NOISE = random.Random(1).randbytes(300 * KIB)
TEXT = b"".join(b"%d lines of text, and a number: %d\n" % (line, line * line) for line in range(20_000))
CODE = b"\x7fELF\0" + b"".join(b"%b%b" % (NOISE[at : at + 8], TEXT[at : at + 12]) for at in range(0, 200 * KIB, 12))


def levels(*members: bytes, of: Levels | None = None) -> list[int]:
    """Of members that are file data and nothing else."""
    chosen = of or Levels(ADAPTIVE)
    return [chosen.choose(memoryview(member), len(member)) for member in members]


@pytest.mark.parametrize(
    ("data", "level"),
    [
        (TEXT[: 4 * KIB], 5),
        (TEXT[: 16 * KIB], 6),
        (TEXT[: 17 * KIB], 7),
        (TEXT[: 256 * KIB], 7),
        (TEXT[: 257 * KIB], 6),
        (CODE, 5),
        (b"\0" + TEXT[: 100 * KIB], 5),
        (NOISE, 0),
        (NOISE[: 32 * KIB], 0),
        (NOISE[: 8 * KIB], 5),
        (NOISE[: 200 * KIB] + TEXT[: 100 * KIB], 5),  # one sample that shrinks is enough
    ],
)
def test_content_decides(data: bytes, level: int) -> None:
    assert levels(b"x" * 100, data, b"x" * 100) == [5, level, 5]


def test_text_is_quick_as_long_as_data_before_it_has_paid() -> None:
    text = TEXT[: len(CODE) * 2 // 3]  # for half of which a byte of data pays
    assert levels(text, CODE, text, text, text, text) == [7, 5, 5, 5, 5, 7]


def test_text_of_some_kilobytes_costs_half_and_anything_small_pays_a_quarter() -> None:
    text = TEXT[: 16 * KIB]
    assert levels(text, *[TEXT[: 4 * KIB]] * 8, text, text, text) == [6, *[5] * 8, 5, 5, 6]


@pytest.mark.parametrize("data", [NOISE, bytes(300 * KIB)])
def test_data_that_saves_nothing_pays_for_nothing(data: bytes) -> None:
    text = TEXT[: 100 * KIB]
    assert levels(data, text)[1] == 7


def test_a_level_that_was_asked_for_is_every_members() -> None:
    assert levels(TEXT, CODE, NOISE, of=Levels(9)) == [9, 9, 9]
