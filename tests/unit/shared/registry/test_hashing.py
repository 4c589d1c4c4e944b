from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.registry.hashing import ThreadedHash


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_large_pieces_are_hashed_in_order(algorithm: str) -> None:
    pieces = [bytes([number]) * 700_000 for number in range(9)]
    hashing = ThreadedHash(algorithm)
    for piece in pieces:
        await hashing.update(memoryview(piece))
    assert (await hashing.digest()).hex == hashlib.new(algorithm, b"".join(pieces)).hexdigest()


@given(st.lists(st.binary(max_size=50), max_size=20))
async def test_small_pieces_are_hashed_too(pieces: list[bytes]) -> None:
    hashing = ThreadedHash()
    for piece in pieces:
        await hashing.update(piece)
    assert (await hashing.digest()).hex == hashlib.sha256(b"".join(pieces)).hexdigest()
