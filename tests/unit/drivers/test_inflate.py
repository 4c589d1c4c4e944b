"""Decompression by content, whatever the pieces, with damaged and hostile input."""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.inflate import PIECE, Inflater
from drivers.limits import LayerLimits
from shared.errors import CorruptLayerError, LimitExceededError, UnsupportedError
from tests.unit.drivers.layer_blobs import gz, zst


def inflate(blob: bytes, piece: int = 1 << 16, limits: LayerLimits | None = None) -> bytes:
    inflater = Inflater(limits or LayerLimits())
    out = [part for start in range(0, len(blob), piece) for part in inflater.feed(blob[start : start + piece])]
    out += inflater.finish()
    assert inflater.uncompressed == sum(map(len, out))
    assert max(map(len, out), default=0) <= 16 * PIECE
    return b"".join(out)


@given(st.lists(st.binary(max_size=2000), max_size=4), st.sampled_from([gz, zst, bytes]), st.integers(1, 3000))
def test_members_and_frames_are_joined_however_the_stream_is_cut(parts: list[bytes], form: type, piece: int) -> None:
    plain = b"".join(parts)
    if form is bytes:
        plain = b"tar" + plain
        assert inflate(plain, piece) == plain
    else:
        assert inflate(b"".join(form(part) for part in parts), piece) == plain


def test_zero_padding_after_gzip_and_skippable_frames_of_zstd_are_passed_over() -> None:
    assert inflate(gz(b"a") + bytes(100), piece=7) == b"a"
    skippable = struct.pack("<II", 0x184D2A53, 5) + b"12345"
    assert inflate(skippable + zst(b"a") + skippable + zst(b"b") + skippable, piece=3) == b"ab"


def test_large_data_comes_in_bounded_pieces() -> None:
    data = bytes(range(256)) * 40_000
    assert inflate(gz(data)) == data
    assert inflate(zst(data)) == data


@pytest.mark.parametrize("form", [gz, zst])
@pytest.mark.parametrize("cut", [1, 5])
def test_cut_data_is_corrupt(form: type, cut: int) -> None:
    with pytest.raises(CorruptLayerError, match="in the middle"):
        inflate(form(b"some data" * 100)[:-cut])


def test_wrong_checksums_and_damage_are_corrupt() -> None:
    blob = bytearray(gz(b"some data" * 100))
    blob[-5] ^= 1
    with pytest.raises(CorruptLayerError, match="damaged"):
        inflate(bytes(blob))
    with pytest.raises(CorruptLayerError, match="damaged"):
        inflate(gzip.compress(b"x")[:10] + b"\xff" * 50)
    with pytest.raises(CorruptLayerError, match="damaged"):
        inflate(zst(b"some data" * 100)[:6] + b"\xff" * 60)


@pytest.mark.parametrize("form", [gz, zst])
@pytest.mark.parametrize("garbage", [b"garbage that is nothing", b"\0\0x", b"\x1f\x8a"])
def test_garbage_behind_is_corrupt(form: type, garbage: bytes) -> None:
    with pytest.raises(CorruptLayerError, match=r"not (gzip|zstd)|in the middle"):
        inflate(form(b"data") + garbage)


def test_other_compressions_are_named() -> None:
    with pytest.raises(UnsupportedError, match="xz"):
        inflate(lzma.compress(b"data"))


def bomb(form: str) -> bytes:
    if form == "zstd":  # one frame of run-length blocks: 4 bytes for 128 KiB each
        block = struct.pack("<I", (128 << 10) << 3 | 1 << 1)[:3] + b"\0"
        return b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x38" + block * 4000
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()


@pytest.mark.parametrize("form", ["gzip", "zstd"])
@pytest.mark.parametrize("limit", ["layer_size", "compression_ratio"])
def test_bombs_meet_the_limit_early(form: str, limit: str) -> None:
    limits = LayerLimits(layer_size=80 << 20, compression_ratio=1_000_000)
    if limit == "compression_ratio":
        limits = LayerLimits(compression_ratio=200)
    inflater = Inflater(limits)
    with pytest.raises(LimitExceededError) as caught:
        for _ in inflater.feed(bomb(form)):
            pass
    assert caught.value.details["limit"] == limit
    assert inflater.uncompressed <= (80 << 20) + (32 << 20)
