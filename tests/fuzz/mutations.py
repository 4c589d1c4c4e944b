"""New inputs from old ones: what a fuzzer does to a seed, from a random generator so that a seed number brings it back."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62)
_WORDS = (
    b"path=",
    b"size=",
    b"30 mtime=",
    b"GNU.sparse.",
    b"SCHILY.xattr.",
    b"\0" * 512,
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
)
_WORDS_OF_JSON = (b"null", b"-1", b"1e308", b'""', b"[]", b"{}", b'"chunk"', b'"hardlink"', b"9223372036854775807")


def _flip(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at : at + rng.choice((1, 2, 4, 8))] = rng.randbytes(rng.choice((1, 2, 4, 8)))


def _number(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _word(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    word = rng.choice(_WORDS + _WORDS_OF_JSON)
    data[at : at + rng.choice((0, len(word)))] = word


def _cut(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 8, 512, len(data)))]


def _double(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 16, 512, 1024))]
    data[start:start] = piece * rng.choice((1, 1, 2, 20))


_MUTATIONS: Sequence[Callable[[bytearray, random.Random], None]] = (
    _flip,
    _flip,
    _overwrite,
    _number,
    _word,
    _cut,
    _double,
)


def mutated(corpus: Sequence[bytes], rng: random.Random, *, maximum: int = 1 << 18) -> bytes:
    """One of ``corpus``, perhaps with the tail of another, changed a few times."""
    data = bytearray(rng.choice(corpus))
    if rng.random() < 0.2:
        other = rng.choice(corpus)
        data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not data:
            data = bytearray(rng.randbytes(16))
        rng.choice(_MUTATIONS)(data, rng)
    return bytes(data[:maximum])
