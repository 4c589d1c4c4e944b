"""What a converted layer holds: the source's bytes, landmarks, cuts, table, digests."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import tarfile

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import UnconvertibleLayerError
from drivers.estargz import EstargzDriver, EstargzOptions
from drivers.estargz.cutter import Cutter
from drivers.estargz.layout import parse_footer
from drivers.estargz.planner import Planner
from drivers.estargz.reader import read_file, validate
from drivers.estargz.workers import Workers
from drivers.limits import LayerLimits
from drivers.reencoding.members import MemberEncoder
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST, ANNOTATION_UNCOMPRESSED_SIZE
from drivers.stargz.names import Names
from shared.errors import CorruptLayerError, LimitExceededError
from shared.oci import media_types
from tests.unit.drivers.layer_blobs import (
    ANY_LAYER,
    CHUNK,
    FILES,
    LAYER,
    MemoryWriter,
    convert,
    gz,
    member,
    ranges,
    source,
    tar,
    zst,
)

SMALL_CHUNKS = EstargzOptions(estargz_chunk_size=CHUNK)
LANDMARK = ".no.prefetch.landmark"


def rows(blob: bytes) -> list[dict[str, object]]:
    """The table as stored."""
    offset = parse_footer(blob[-51:])
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob[offset:-51]))) as archive:
        table = archive.extractfile("stargz.index.json")
        assert table is not None
        document = orjson.loads(table.read())
    assert document["version"] == 1
    return list(document["entries"])


def unpacked(blob: bytes) -> list[tuple[str, bytes, bytes]]:
    """Name, type and data of every entry of a tar."""
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        return [
            (info.name, info.type, archive.extractfile(info).read() if info.isreg() else b"")  # type: ignore[union-attr]
            for info in archive
        ]


async def test_every_entry_comes_through_and_the_blob_keeps_its_promises() -> None:
    made, blob = await convert(gz(LAYER), SMALL_CHUNKS)
    annotations = made.descriptor.annotations
    plain = gzip.decompress(blob)
    assert made.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert made.descriptor.media_type == media_types.OCI_LAYER_GZIP
    assert annotations[ANNOTATION_UNCOMPRESSED_SIZE] == str(len(plain))
    # An ordinary runtime sees the source between landmark and table.
    assert unpacked(plain)[1:-1] == unpacked(LAYER)
    assert unpacked(plain)[0] == (LANDMARK, b"0", b"\x0f")
    toc, diff_id = await validate(ranges(blob), len(blob), annotations[ANNOTATION_TOC_DIGEST])
    assert diff_id == made.diff_id
    for name, data in FILES.items():
        assert await read_file(ranges(blob), toc, f"/d/{name}") == data
    assert await read_file(ranges(blob), toc, "d/hard") == FILES["many"]
    assert len(toc.entries["d/many"].chunks) == 12
    assert toc.entries["d/attrs"].xattrs == {"security.capability": "\x01\x00é".encode()}


async def test_the_table_has_the_formats_fields() -> None:
    _, blob = await convert(gz(LAYER), SMALL_CHUNKS)
    table = rows(blob)
    assert table[0] == {
        "name": LANDMARK,
        "type": "reg",
        "size": 1,
        "offset": table[0]["offset"],
        "digest": "sha256:dc0e9c3658a1a3ed1ec94274d8b19925c93e1abb7ddba294923ad9bde30f8cb8",
        "chunkDigest": "sha256:dc0e9c3658a1a3ed1ec94274d8b19925c93e1abb7ddba294923ad9bde30f8cb8",
    }
    by_name = {row["name"]: row for row in table if row["type"] != "chunk"}
    time = "2023-11-14T22:13:20Z"
    assert by_name["d/"] == {"name": "d/", "type": "dir", "modtime": time, "mode": 0o755}
    assert by_name["d/null"] == {
        "name": "d/null",
        "type": "char",
        "modtime": time,
        "mode": 0o644,
        "devMajor": 1,
        "devMinor": 3,
    }
    assert by_name["d/link"]["linkName"] == "small"
    assert by_name["d/attrs"]["modtime"] == "1970-01-01T00:00:02Z"
    assert by_name["d/empty"]["digest"] == f"sha256:{hashlib.sha256(b'').hexdigest()}"
    assert by_name["d/" + "long" * 60]["userName"] == "root"
    chunks = [row for row in table if row["name"] == "d/two-chunks"]
    assert [row.get("chunkSize") for row in chunks] == [CHUNK, None]
    assert [row.get("chunkOffset") for row in chunks] == [None, CHUNK]
    assert chunks[1]["type"] == "chunk"


async def test_owners_names_are_written_once_an_id() -> None:
    layer = tar([member(name, uname="root", gname=group) for name, group in [("a", "g"), ("b", "g"), ("c", "h")]])
    names = [(row.get("userName"), row.get("groupName")) for row in rows((await convert(layer))[1])[1:]]
    assert names == [("root", "g"), (None, None), (None, "h")]


async def test_gzip_zstd_and_plain_give_the_same_bytes() -> None:
    blobs = {(await convert(form(LAYER)))[1] for form in (gz, zst, bytes)}
    assert len(blobs) == 1


@pytest.mark.parametrize("level", [0, 1, 9])
async def test_levels_trade_size_for_speed_and_stay_readable(level: int) -> None:
    option = EstargzOptions(estargz_compression_level=level)
    made, blob = await convert(LAYER, option)
    await validate(ranges(blob), len(blob), made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
    stored = sum(len(data) for data in FILES.values())
    assert (len(blob) > stored) == (level == 0)


members = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "./a", "c/", "c/d", "/c/e"]),
        st.binary(max_size=300) | st.integers(1, 300_000).map(bytes),
    ),
    max_size=12,
)


@given(members, st.sampled_from([1, 3]), st.integers(1, 70_000))
def test_bytes_depend_on_content_alone_and_the_last_of_equal_paths_wins(
    entries: list[tuple[str, bytes]], threads: int, piece: int
) -> None:
    layer = tar([member(name, b"" if name.endswith("/") else data) for name, data in entries])

    async def run() -> None:
        made, blob = await convert(gz(layer), SMALL_CHUNKS, workers=Workers(threads=threads), piece=piece)
        again, _ = await convert(gz(layer), SMALL_CHUNKS, workers=Workers(threads=2, memory=1))
        assert again == made
        toc, _ = await validate(ranges(blob), len(blob), made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
        last = {name.strip("./"): b"" if name.endswith("/") else data for name, data in entries}
        assert toc.entries.keys() == {LANDMARK} | last.keys()
        for path, data in last.items():
            assert await read_file(ranges(blob), toc, path) == data

    asyncio.run(run())


async def test_a_replaced_entry_hands_its_owners_name_on() -> None:
    layer = tar([member("a", b"1", uname="u", uid=5), member("b", uname="u", uid=5), member("a", b"2", uid=6)])
    table = rows((await convert(layer))[1])
    assert [(row["name"], row.get("userName")) for row in table[1:]] == [("b", "u"), ("a", None)]


async def test_converting_a_converted_layer_gives_the_same_layer() -> None:
    first, blob = await convert(LAYER)
    second, again = await convert(blob)
    assert again == blob
    assert second == first
    prioritized, blob = await convert(blob, EstargzOptions(prioritized_files=("d/small",)))
    assert [row["name"] for row in rows(blob)][:3] == ["d/", "d/small", ".prefetch.landmark"]
    assert prioritized.diff_id != first.diff_id


async def test_prioritised_files_come_first_after_their_parents_and_links() -> None:
    layer = tar(
        [
            member("./", kind=tarfile.DIRTYPE),
            member("./z", b"not wanted"),
            member("./d/", kind=tarfile.DIRTYPE),
            member("./d/target", b"old"),
            member("./d/target", b"target"),
            member("./e/", kind=tarfile.DIRTYPE),
            member("./e/hard", kind=tarfile.LNKTYPE, linkname="./d/target"),
            member("./x", b"1" * 100_000),
        ]
    )
    made, blob = await convert(
        gz(layer), EstargzOptions(prioritized_files=("/e/hard", "x", "missing", "x"), estargz_chunk_size=CHUNK)
    )
    names = [row["name"] for row in rows(blob) if row["type"] != "chunk"]
    assert names == ["./", "./e/", "./d/", "./d/target", "./e/hard", "./x", ".prefetch.landmark", "./z"]
    toc, _ = await validate(ranges(blob), len(blob), made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
    assert await read_file(ranges(blob), toc, "e/hard") == b"target"
    assert await read_file(ranges(blob), toc, "x") == b"1" * 100_000


async def test_prioritised_files_are_bounded() -> None:
    limits = LayerLimits(prioritized_size=1000)
    with pytest.raises(LimitExceededError, match="prioritized_size"):
        await convert(LAYER, EstargzOptions(prioritized_files=("d/many",)), limits=limits)


@pytest.mark.parametrize("layer", [b"", bytes(1024), tar([])])
async def test_empty_layers(layer: bytes) -> None:
    made, blob = await convert(layer)
    toc, _ = await validate(ranges(blob), len(blob), made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
    assert list(toc.entries) == [LANDMARK]


async def test_uncompress_gives_the_plain_tar() -> None:
    made, blob = await convert(gz(LAYER), EstargzOptions(uncompress=True))
    assert blob == LAYER
    assert (made.descriptor.media_type, made.diff_id) == (media_types.OCI_LAYER, made.descriptor.digest)
    assert made.descriptor.annotations == {}


async def test_global_pax_headers_pass_without_an_entry() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "abc"}) as archive:
        archive.addfile(*member("a"))  # type: ignore[arg-type]
    _, blob = await convert(out.getvalue())
    assert [row["name"] for row in rows(blob)] == [LANDMARK, "a"]
    assert b"comment=abc" in gzip.decompress(blob)


async def test_long_runs_of_headers_are_cut_into_members_of_their_own() -> None:
    layer = tar([member(f"directory-{number}/", kind=tarfile.DIRTYPE) for number in range(5000)] + [member("f", b"1")])
    made, blob = await convert(layer)
    toc, _ = await validate(ranges(blob), len(blob), made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
    assert len(toc.entries) == 5002
    cutter = Cutter(CHUNK, LayerLimits(), Names(), None, Planner(1, MemberEncoder()))
    batches = [*cutter.start(), *cutter.feed(layer), *cutter.finish()]
    assert max(batch.size for batch in batches) < 2_200_000


TO_DIRECTORY = member("l", kind=tarfile.LNKTYPE, linkname="./d")


@pytest.mark.parametrize(
    "entries",
    [
        [member("d/", kind=tarfile.DIRTYPE), TO_DIRECTORY],
        [member("d/", kind=tarfile.DIRTYPE), member("d/f", b"1"), TO_DIRECTORY, member("l", b"2")],
        [
            member("./", kind=tarfile.DIRTYPE),
            member("d", kind=tarfile.DIRTYPE),
            member("d/", kind=tarfile.DIRTYPE),
            TO_DIRECTORY,
        ],
        [member("./", kind=tarfile.DIRTYPE), member("l", kind=tarfile.LNKTYPE, linkname=".")],
    ],
)
async def test_a_hard_link_to_a_directory_is_damage_and_is_named(
    entries: list[tuple[tarfile.TarInfo, bytes]],
) -> None:
    writer = MemoryWriter()
    with pytest.raises(CorruptLayerError, match="'l' is a hard link to a directory"):
        await convert(gz(tar([member("before", b"x" * 3 * CHUNK), *entries])), writer=writer)
    assert not writer.committed


async def test_a_hard_link_to_what_was_a_file_leaves_the_layer_as_it_is() -> None:
    link = member("l", kind=tarfile.LNKTYPE, linkname="f")
    with pytest.raises(UnconvertibleLayerError, match="target of a hard link"):
        await convert(tar([member("f", b"1"), link, member("f/", kind=tarfile.DIRTYPE)]))


BAD_NAME = b"n\xff".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([member(BAD_NAME)], "not UTF-8"),
        ([member("l", kind=tarfile.SYMTYPE, linkname=BAD_NAME)], "not UTF-8"),
        ([member("l", kind=tarfile.LNKTYPE, linkname="lower/layer")], "does not come before"),
        ([member("l", kind=tarfile.LNKTYPE, linkname="f"), member("f", b"1")], "does not come before"),
        ([member("l", kind=tarfile.LNKTYPE, linkname="./l")], "does not come before"),
        (
            [member("f", b"1"), member("l", kind=tarfile.LNKTYPE, linkname="f"), member("f", b"2")],
            "target of a hard link",
        ),
        ([member("s", kind=tarfile.GNUTYPE_SPARSE)], "sparse"),
        (
            [
                member(
                    "s",
                    b"1",
                    pax_headers={"GNU.sparse.map": "9,1", "GNU.sparse.numblocks": "1", "GNU.sparse.size": "10"},
                )
            ],
            "sparse",
        ),
        ([member("s", b"1", kind=tarfile.CONTTYPE)], "type b'7'"),
        ([member("t", mtime=1 << 50)], "time"),
    ],
)
async def test_what_the_table_cannot_say_leaves_the_layer_as_it_is(
    entries: list[tuple[tarfile.TarInfo, bytes]], reason: str
) -> None:
    writer = MemoryWriter()
    with pytest.raises(UnconvertibleLayerError, match=reason):
        await convert(
            tar(entries, tarfile.GNU_FORMAT if "GNU" not in str(entries[0][0].pax_headers) else tarfile.PAX_FORMAT),
            writer=writer,
        )
    assert not writer.committed


@pytest.mark.parametrize(
    ("blob", "error"),
    [
        (gz(LAYER)[:-10], CorruptLayerError),
        (gz(LAYER[:5000]), CorruptLayerError),
        (gz(LAYER) + b"garbage", CorruptLayerError),
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


class _StuckWriter(MemoryWriter):
    """Takes one piece, then never again."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = asyncio.Event()

    async def write(self, data: bytes | memoryview) -> None:
        if self.data:
            self.stuck.set()
            await asyncio.Event().wait()
        await super().write(data)


async def test_cancelling_gives_everything_back() -> None:
    workers = Workers(threads=2, memory=8 << 20)
    layer = tar([member(str(number), bytes(1 << 20)) for number in range(40)])
    writer = _StuckWriter()
    task = asyncio.create_task(
        EstargzDriver(None, workers).convert_layer(ANY_LAYER, source(layer), writer, EstargzOptions())
    )
    while not writer.data:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(workers.reserve(8 << 20), 10)


async def test_layers_that_wait_for_memory_all_finish() -> None:
    workers = Workers(threads=2, memory=2 << 20)
    layer = tar([member(str(number), bytes([number]) * (1 << 20)) for number in range(10)])
    made = await asyncio.gather(*(convert(layer, workers=workers) for _ in range(4)))
    assert len({blob for _, blob in made}) == 1


async def test_all_layers_of_a_driver_share_the_memory_of_its_limits() -> None:
    driver = EstargzDriver(LayerLimits(memory=2 << 20))
    layer = tar([member(str(number), bytes(1 << 20)) for number in range(4)])
    holding, waiting = _StuckWriter(), MemoryWriter()
    first = asyncio.create_task(driver.convert_layer(ANY_LAYER, source(layer), holding, EstargzOptions()))
    await holding.stuck.wait()
    second = asyncio.create_task(driver.convert_layer(ANY_LAYER, source(layer), waiting, EstargzOptions()))
    assert not (await asyncio.wait({second}, timeout=0.3))[0]
    assert not waiting.data
    first.cancel()
    await second
    assert waiting.committed


async def test_the_sources_own_failure_comes_through_unchanged() -> None:
    async def failing() -> None:
        raise CorruptLayerError("the blob's digest is wrong")

    class Failing(MemoryWriter):
        async def write(self, data: bytes | memoryview) -> None:
            await failing()

    with pytest.raises(CorruptLayerError, match="digest is wrong"):
        await convert(LAYER, writer=Failing())


def test_equal_outputs_have_equal_fingerprints() -> None:
    driver = EstargzDriver()
    told = [
        driver.fingerprint(option)
        for option in (
            EstargzOptions(),
            EstargzOptions(estargz_chunk_size=4 << 20),
            EstargzOptions(estargz_compression_level=9),
            EstargzOptions(estargz_chunk_size=1 << 20),
            EstargzOptions(uncompress=True),
            EstargzOptions(prioritized_files=("a",)),
        )
    ]
    assert told[0] == told[1]
    assert len(set(told)) == 5


@pytest.mark.parametrize("config", [{"estargz_compression_level": 10}, {"estargz_chunk_size": 5}, {"level": 1}])
def test_options_out_of_range_are_refused(config: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(config))):
        EstargzOptions(**config)  # type: ignore[arg-type]
