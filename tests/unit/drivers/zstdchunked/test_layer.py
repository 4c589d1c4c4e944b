"""What a converted layer holds: the source's tar to the last byte, cuts, table, digests."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import UnconvertibleLayerError
from drivers.limits import LayerLimits
from drivers.stargz.batch import Batch
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE
from drivers.stargz.names import Names
from drivers.stargz.workers import Workers
from drivers.zstdchunked import ZstdChunkedDriver, ZstdChunkedOptions
from drivers.zstdchunked.cutter import Cutter
from drivers.zstdchunked.frames import make
from drivers.zstdchunked.layout import (
    ANNOTATION_MANIFEST_CHECKSUM,
    ANNOTATION_MANIFEST_POSITION,
    FOOTER_SIZE,
    parse_footer,
)
from drivers.zstdchunked.reader import read_file, validate
from shared.errors import CorruptLayerError, LimitExceededError
from shared.oci import media_types
from tests.unit.drivers.layer_blobs import CHUNK, FILES, LAYER, MemoryWriter, gz, member, ranges, tar, zst
from tests.unit.drivers.zstdchunked.blobs import convert, unpacked

SMALL_CHUNKS = ZstdChunkedOptions(chunk_size=CHUNK)


def rows(blob: bytes) -> list[dict[str, Any]]:
    """The table as stored."""
    position = parse_footer(blob[-FOOTER_SIZE:])
    text = unpacked(blob[position.offset : position.offset + position.size])
    assert len(text) == position.text_size
    return list(orjson.loads(text)["entries"])


async def test_the_tar_and_every_file_come_through() -> None:
    made, blob = await convert(gz(LAYER), SMALL_CHUNKS)
    assert unpacked(blob) == LAYER
    assert made.diff_id == f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
    assert made.descriptor.media_type == media_types.OCI_LAYER_ZSTD
    annotations = made.descriptor.annotations
    position = parse_footer(blob[-FOOTER_SIZE:])
    table = blob[position.offset : position.offset + position.size]
    assert annotations == {
        ANNOTATION_TOC_DIGEST: f"sha256:{hashlib.sha256(unpacked(table)).hexdigest()}",
        ANNOTATION_UNCOMPRESSED_SIZE: str(len(LAYER)),
        ANNOTATION_MANIFEST_CHECKSUM: f"sha256:{hashlib.sha256(table).hexdigest()}",
        ANNOTATION_MANIFEST_POSITION: str(position),
    }
    toc, diff_id = await validate(ranges(blob), len(blob), annotations[ANNOTATION_TOC_DIGEST])
    assert diff_id == made.diff_id
    for name, data in FILES.items():
        assert await read_file(ranges(blob), toc, f"/d/{name}") == data
    assert await read_file(ranges(blob), toc, "d/hard") == FILES["many"]
    assert len(toc.entries["d/many"].chunks) == 12
    assert toc.entries["d/attrs"].xattrs == {"security.capability": "\x01\x00é".encode()}
    chunks = [row for row in rows(blob) if row["name"] == "d/two-chunks"]
    assert [row.get("chunkSize") for row in chunks] == [CHUNK, None]
    assert [row.get("chunkOffset") for row in chunks] == [None, CHUNK]


async def test_a_lazy_read_fetches_one_frame() -> None:
    _, blob = await convert(LAYER)
    toc, _ = await validate(ranges(blob), len(blob), f"sha256:{hashlib.sha256(table_text(blob)).hexdigest()}")
    fetched: list[int] = []

    async def counting(start: int, length: int) -> bytes:
        fetched.append(length)
        return blob[start : start + length]

    assert await read_file(counting, toc, "d/small") == FILES["small"]
    assert len(fetched) == 1
    assert fetched[0] < 1000


def table_text(blob: bytes) -> bytes:
    position = parse_footer(blob[-FOOTER_SIZE:])
    return unpacked(blob[position.offset : position.offset + position.size])


def dirty() -> bytes:
    """Bytes that nothing in a tar's entries tells of: in padding, behind the end; names that eStargz keeps for itself."""
    layer = bytearray(
        tar([member(".no.prefetch.landmark", b"1"), member("a", b"a" * 100), member("stargz.index.json")])
    )
    at = layer.index(b"a" * 100) + 100
    layer[at : at + 5] = b"dirty"
    return bytes(layer) + b"behind the end" * 100


TRAILING = LAYER + bytes(range(256)) * (3 << 12)
"""Three MiB behind the archive's end: in frames of their own."""


@pytest.mark.parametrize(
    "layer",
    [
        *(b"", bytes(512), bytes(1024), tar([]), dirty(), TRAILING),
        LAYER[: LAYER.index(b"hello") + 512],  # no end of the archive, as some writers leave it
        tar([member(f"directory-{number}/", kind=tarfile.DIRTYPE) for number in range(3000)]),
        tar(
            [
                *(member(f"{number}/", kind=tarfile.DIRTYPE) for number in range(2047)),
                member("after", b"1 MiB of headers"),
            ]
        ),
    ],
    ids=["nothing", "a block", "no entry", "padded", "dirty", "trailing", "no end", "directories", "due cut"],
)
async def test_not_a_byte_is_lost_or_added(layer: bytes) -> None:
    made, blob = await convert(layer, piece=1000)
    assert unpacked(blob) == layer
    toc, diff_id = await validate(ranges(blob), len(blob), made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
    assert diff_id == made.diff_id == f"sha256:{hashlib.sha256(layer).hexdigest()}"
    assert toc.entries  # the root at least, without which the reference reader opens nothing


def batches(layer: bytes, piece: int) -> list[Batch]:
    cutter = Cutter(CHUNK, LayerLimits(), Names())
    found = [*cutter.start()]
    for at in range(0, len(layer), piece):
        found += cutter.feed(layer[at : at + piece])
    return [*found, *cutter.finish()]


@pytest.mark.parametrize("piece", [509, 512, 4096, 1 << 20, 1 << 24])
def test_cuts_depend_on_the_content_alone(piece: int) -> None:
    """However the source comes: also where a piece ends at a header, a cut, or in a member of headers only."""
    layer = tar(
        [
            *[member(f"folder-{number}/", kind=tarfile.DIRTYPE) for number in range(2200)],
            *[member(f"file-{number}", bytes([number]) * (number * 3001)) for number in range(80)],
            member("large", bytes(range(250)) * 5000),
        ]
    )
    layer += b"trailing" * (300 << 10)
    whole, cut = batches(layer, len(layer)), batches(layer, piece)
    assert [(each.data, each.starts, each.payloads, each.heads, each.chunks, each.lines) for each in cut] == [
        (each.data, each.starts, each.payloads, each.heads, each.chunks, each.lines) for each in whole
    ]
    assert b"".join(each.data for each in whole) == layer
    assert len(whole) > 3
    assert max(each.size for each in whole) < 2_200_000
    for batch in whole:
        assert all(data for data, _ in batch.pieces())
        assert unpacked(make(batch, 1).members) == batch.data


entries = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "./a", "c/", "c/d", "/c/e"]),
        st.binary(max_size=300) | st.integers(1, 300_000).map(bytes),
    ),
    max_size=12,
)


@given(entries, st.sampled_from([1, 3]), st.integers(1, 70_000))
def test_bytes_depend_on_content_alone_and_the_last_of_equal_paths_wins(
    listed: list[tuple[str, bytes]], threads: int, piece: int
) -> None:
    layer = tar([member(name, b"" if name.endswith("/") else data) for name, data in listed])

    async def run() -> None:
        made, blob = await convert(gz(layer), SMALL_CHUNKS, workers=Workers(threads=threads), piece=piece)
        again, other = await convert(zst(layer), SMALL_CHUNKS, workers=Workers(threads=2, memory=1))
        assert (again, other) == (made, blob)
        toc, diff_id = await validate(ranges(blob), len(blob), made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
        assert diff_id == f"sha256:{hashlib.sha256(layer).hexdigest()}"
        last = {name.strip("./"): b"" if name.endswith("/") else data for name, data in listed}
        assert toc.entries.keys() == (last.keys() or {""})
        for path, data in last.items():
            assert await read_file(ranges(blob), toc, path) == data

    asyncio.run(run())


async def test_a_duplicate_keeps_its_bytes_and_loses_its_row() -> None:
    layer = tar([member("a", b"first" * 50_000, uname="u"), member("b", uname="u"), member("a", b"second")])
    _, blob = await convert(layer, SMALL_CHUNKS)
    assert unpacked(blob) == layer
    assert [(row["name"], row.get("userName")) for row in rows(blob)] == [("b", "u"), ("a", None)]


async def test_a_converted_layer_converts_to_itself() -> None:
    first, blob = await convert(LAYER)
    second, again = await convert(blob)
    assert (second, again) == (first, blob)


async def test_levels_trade_size_for_speed() -> None:
    blobs = [(await convert(LAYER, ZstdChunkedOptions(compression_level=level)))[1] for level in (1, 19)]
    assert len(blobs[1]) < len(blobs[0])
    assert {unpacked(blob) for blob in blobs} == {LAYER}


async def test_global_pax_headers_stay_without_an_entry() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "abc"}) as archive:
        archive.addfile(*member("a"))  # type: ignore[arg-type]
    _, blob = await convert(out.getvalue())
    assert [row["name"] for row in rows(blob)] == ["a"]
    assert unpacked(blob) == out.getvalue()


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ([member(b"n\xff".decode("utf-8", "surrogateescape"))], "not UTF-8"),
        ([member("l", kind=tarfile.LNKTYPE, linkname="lower/layer")], "does not come before"),
        ([member("l", kind=tarfile.LNKTYPE, linkname="./l")], "does not come before"),
        ([member("f", b"1"), member("l", kind=tarfile.LNKTYPE, linkname="f"), member("f", b"2")], "target of a hard"),
        ([member("s", kind=tarfile.GNUTYPE_SPARSE)], "sparse"),
        ([member("s", b"1", kind=tarfile.CONTTYPE)], "type b'7'"),
    ],
)
async def test_what_the_table_cannot_say_leaves_the_layer_as_it_is(
    listed: list[tuple[tarfile.TarInfo, bytes]], reason: str
) -> None:
    writer = MemoryWriter()
    with pytest.raises(UnconvertibleLayerError, match=reason):
        await convert(tar(listed, tarfile.GNU_FORMAT), writer=writer)
    assert not writer.committed


@pytest.mark.parametrize(
    ("blob", "error"),
    [
        (gz(LAYER)[:-10], CorruptLayerError),
        (gz(LAYER[:5000]), CorruptLayerError),
        (tar([member("d", kind=tarfile.DIRTYPE), member("l", kind=tarfile.LNKTYPE, linkname="d")]), CorruptLayerError),
        (b"no tar at all" * 100, CorruptLayerError),
        (gz(bytes(200 << 20)), LimitExceededError),
    ],
)
async def test_bad_layers_are_refused_and_nothing_is_committed(blob: bytes, error: type[Exception]) -> None:
    writer, workers = MemoryWriter(), Workers(threads=2, memory=1 << 20)
    with pytest.raises(error):
        await convert(blob, writer=writer, workers=workers, limits=LayerLimits(layer_size=100 << 20))
    assert not writer.committed
    await asyncio.wait_for(workers.reserve(1 << 20), 10)


async def test_every_flipped_byte_of_data_or_table_is_found() -> None:
    made, blob = await convert(tar([member("a", b"first" * 50), member("b", b"second" * 50)]))
    digest = made.descriptor.annotations[ANNOTATION_TOC_DIGEST]
    toc, _ = await validate(ranges(blob), len(blob), digest)
    chunk = toc.entries["b"].chunks[0]
    for at in (chunk.offset + 2, chunk.offset + 12, toc.offset, toc.offset + 5, toc.offset + 30, len(blob) - 37):
        damaged = bytearray(blob)
        damaged[at] ^= 0x10
        with pytest.raises(CorruptLayerError):
            await validate(ranges(damaged), len(damaged), digest)


async def test_what_is_no_zstdchunked_is_refused() -> None:
    _, blob = await convert(LAYER)
    for other in (b"", b"short", zst(LAYER), blob[:-FOOTER_SIZE], blob[-FOOTER_SIZE:], gz(LAYER)):
        with pytest.raises(CorruptLayerError):
            await validate(ranges(other), len(other), "sha256:" + "0" * 64)


def test_equal_outputs_have_equal_fingerprints() -> None:
    driver = ZstdChunkedDriver()
    options = (
        ZstdChunkedOptions(),
        ZstdChunkedOptions(compression_level=4),
        ZstdChunkedOptions(chunk_size=1 << 20),
        ZstdChunkedOptions(with_referrer=True),
    )
    assert len({driver.fingerprint(option) for option in options}) == 4
    assert len({driver.layer_fingerprint(option) for option in options}) == 3


@pytest.mark.parametrize(
    "config", [{"compression_level": 0}, {"compression_level": 20}, {"chunk_size": 65535}, {"chunk_size": 64 << 20}]
)
def test_options_out_of_range_are_refused(config: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(config))):
        ZstdChunkedOptions.model_validate(config)
