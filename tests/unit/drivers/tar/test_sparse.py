"""Sparse files as GNU tar writes them, in each of its formats, and damaged ones."""

from __future__ import annotations

import contextlib
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.limits import LayerLimits
from drivers.tar import TarEntry, TarParser
from drivers.tar.sparse import SparseContent
from shared.errors import CorruptLayerError, LimitExceededError
from tests.images.sparse import GNU_TAR, sparse_tar, write_files
from tests.unit.drivers.layer_blobs import member, tar

MAP = b"2\n0\n3\n1000\n4\n"
STORED = b"aaabbbb"
CONTENT = b"aaa" + bytes(997) + b"bbbb" + bytes(96)
V1 = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "1100"}
V0 = {"GNU.sparse.map": "0,3,1000,4", "GNU.sparse.numblocks": "2", "GNU.sparse.size": "1100"}


def contents(blob: bytes, piece: int = 1 << 20, limits: LayerLimits | None = None) -> dict[str, bytes]:
    parser = TarParser(limits or LayerLimits())
    found: dict[str, bytearray] = {}
    name, sparse = "", None
    for start in range(0, len(blob), piece):
        for event in parser.feed(blob[start : start + piece]):
            stored = memoryview(b"")
            if isinstance(event, TarEntry):
                name = event.name
                sparse = SparseContent(event.sparse) if event.sparse else None
                found[name] = bytearray()
            else:
                stored = event
            found[name] += b"".join(sparse.feed(stored)) if sparse else stored
    parser.finish()
    return {name: bytes(data) for name, data in found.items()}


def version_1(records: dict[str, str] | None = None, numbers: bytes = MAP, stored: bytes = STORED) -> bytes:
    padded = numbers.ljust(len(numbers) + -len(numbers) % 512, b"\0")
    return tar([member("GNUSparseFile.1/s", padded + stored, pax_headers=V1 | (records or {})), member("next", b"n")])


def version_0(records: dict[str, str], stored: bytes = STORED) -> bytes:
    return tar([member("s", stored, pax_headers=V0 | records), member("next", b"n")])


@pytest.mark.parametrize("written", GNU_TAR)
@pytest.mark.parametrize("piece", [700, 1 << 20])
def test_the_content_is_the_files_as_gnu_tar_stores_them(written: str, piece: int, tmp_path: Path) -> None:
    write_files(tmp_path)
    found = contents(sparse_tar(tmp_path, GNU_TAR[written]), piece)
    assert found == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@given(st.integers(1, 600))
def test_maps_are_read_however_the_stream_is_cut(piece: int) -> None:
    for blob in (version_1(), version_0({})):
        assert contents(blob, piece) == {"s": CONTENT, "next": b"n"}


def test_records_of_a_version_that_nobody_knows_make_no_sparse_file() -> None:
    """Go's archive/tar, and so every runtime, takes the file as it is stored."""
    assert contents(version_0({"GNU.sparse.major": "2", "GNU.sparse.minor": "0"})) == {"s": STORED, "next": b"n"}


@pytest.mark.parametrize(
    "blob",
    [
        version_0({"GNU.sparse.map": "0,3,1000,5"}),
        version_0({"GNU.sparse.map": "0,3,1000,3"}),
        version_0({"GNU.sparse.map": "0,3,2,4"}),
        version_0({"GNU.sparse.map": "0,3,1097,4"}),
        version_0({"GNU.sparse.map": "0,3,1000"}),
        version_0({"GNU.sparse.map": "0,3,-1,4"}),
        version_0({"GNU.sparse.map": "0,3,,4"}),
        version_0({"GNU.sparse.numblocks": "3"}),
        version_0({"GNU.sparse.size": "1" * 30}),
        version_0({"GNU.sparse.size": ""}),
        version_0({"GNU.sparse.numbytes": "3"}),
        version_1(numbers=b"2\n0\n3\n1000\n5\n"),
        version_1(numbers=b"x\n"),
        version_1(numbers=b"1\n" + b"9" * 2000 + b"\n"),
        version_1(numbers=b"1\n0\n7\n", stored=b""),
        version_1({"size": "3"}),
        tar([member("s", kind=tarfile.DIRTYPE, pax_headers=V0)]),
        tar([member("s", b"1", kind=tarfile.GNUTYPE_SPARSE)], tarfile.GNU_FORMAT),
    ],
)
def test_damaged_maps_are_corrupt(blob: bytes) -> None:
    with pytest.raises(CorruptLayerError):
        contents(blob)


@pytest.mark.parametrize("cut", [1024 + 512, 1024 + 512 + 100])
def test_a_stream_cut_in_a_map_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptLayerError, match="cut"):
        contents(version_1()[:cut])


@pytest.mark.parametrize(
    ("limit", "blob"),
    [
        (
            "layer_size",
            tar(
                [
                    member(
                        str(i),
                        pax_headers=V0
                        | {"GNU.sparse.map": "4096,0", "GNU.sparse.numblocks": "1", "GNU.sparse.size": "4096"},
                    )
                    for i in range(3)
                ]
            ),
        ),
        ("pax_record", version_1(numbers=b"3000\n" + b"0\n0\n" * 3000, stored=b"")),
    ],
)
def test_limits_are_named(limit: str, blob: bytes) -> None:
    """Holes cost nothing in the tar, and time to whoever reads the file."""
    with pytest.raises(LimitExceededError) as caught:
        contents(blob, limits=replace(LayerLimits(), layer_size=8192, pax_record=8192))
    assert caught.value.details["limit"] == limit


@given(st.integers(0, 4000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_but_never_crashes(at: int, value: int) -> None:
    for sound in (version_1(), version_0({})):
        blob = bytearray(sound)
        blob[at % len(blob)] = value
        with contextlib.suppress(CorruptLayerError, LimitExceededError):
            contents(bytes(blob), limits=replace(LayerLimits(), layer_size=1 << 20))
