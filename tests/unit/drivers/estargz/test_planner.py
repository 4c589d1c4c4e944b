"""Which batches are made of the source's own matches: by how good they are, and by nothing else."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import marshal
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from drivers.estargz.batch import GzipBatch
from drivers.estargz.cutter import Cutter
from drivers.estargz.levels import ADAPTIVE
from drivers.estargz.packing import pack
from drivers.estargz.planner import Planner
from drivers.estargz.priorities import Prioritized
from drivers.estargz.reader import read_file, validate
from drivers.limits import LayerLimits
from drivers.reencoding.gzip_stream import GzipMatches
from drivers.reencoding.members import MemberEncoder
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from drivers.stargz.names import Names
from drivers.tar.parser import TarParser
from tests.unit.drivers.layer_blobs import convert, member, ranges, tar, zst

# What this is about shows in real text and code only: the standard library's.
SOURCES = sorted(Path(argparse.__file__).parent.glob("*.py"), key=lambda path: path.stat().st_size)[-24:]
TEXTS = [member(f"text-{path.name}", path.read_bytes()) for path in SOURCES]
CODES = [member(f"code-{path.name}", marshal.dumps(compile(path.read_bytes(), path.name, "exec"))) for path in SOURCES]
LAYER = tar([entry for pair in zip(TEXTS, CODES, strict=True) for entry in pair])


def packed(data: bytes, level: int) -> bytes:
    return gzip.compress(data, level, mtime=0)


def planned(
    layer: bytes,
    *,
    level: int = ADAPTIVE,
    feed: int = 100_000,
    prioritized: Sequence[Prioritized] | None = None,
) -> tuple[list[GzipBatch], Planner]:
    """The batches that a layer is cut into, their members made."""
    planner = Planner(level, MemberEncoder())
    cutter = Cutter(4 << 20, LayerLimits(), Names(), prioritized, planner)
    batches = [*cutter.start()]
    for at in range(0, len(layer), feed):
        batches += cutter.feed(layer[at : at + feed])
    batches += cutter.finish()
    encoder = MemberEncoder()
    made = [batch.make(pack, encoder) for batch in batches]
    for batch in made:
        assert gzip.decompress(batch.members) == batch.data
        assert sum(batch.sizes) == len(batch.members)
    return made, planner


def reused(batches: Sequence[GzipBatch]) -> set[bool]:
    """Whether they are made of matches."""
    return {not batch.levels for batch in batches}


def total(batches: Sequence[GzipBatch]) -> int:
    return sum(len(batch.members) for batch in batches)


def test_what_a_thorough_compressor_found_is_used() -> None:
    batches, _ = planned(packed(LAYER, 9))
    assert reused(batches) == {True}
    anew, _ = planned(LAYER)
    assert total(batches) < 1.01 * total(anew)


def test_what_a_fast_compressor_found_is_not() -> None:
    batches, _ = planned(packed(LAYER, 1))
    anew, _ = planned(LAYER)
    assert reused(batches) == {False}
    assert [batch.members for batch in batches] == [batch.members for batch in anew]


def test_tiny_files_are_compressed_anew() -> None:
    tiny = [member(f"file-{number}", TEXTS[-1][1][number * 100 :][:1000]) for number in range(800)]
    batches, _ = planned(packed(tar([*tiny, *TEXTS]), 9))
    assert reused(batches[:1]) == {False}
    assert reused(batches[-1:]) == {True}


@pytest.mark.parametrize("layer", [LAYER, zst(LAYER)])
def test_a_source_without_deflate_has_nothing_to_use(layer: bytes) -> None:
    assert reused(planned(layer)[0]) == {False}


def test_a_level_that_was_asked_for_is_kept_to() -> None:
    batches, planner = planned(packed(LAYER, 9), level=6)
    assert planner.stream is None
    assert {level for batch in batches for level in batch.levels} == {6}


def test_how_the_source_arrives_changes_nothing() -> None:
    source = packed(LAYER, 6)
    expected = [(batch.data, batch.levels, batch.members) for batch in planned(source)[0]]
    for feed in (1_000, 65_537, len(source)):
        assert [(batch.data, batch.levels, batch.members) for batch in planned(source, feed=feed)[0]] == expected


@pytest.mark.parametrize("zeros", [8 << 10, 1 << 20])
def test_zeros_behind_the_archive_cost_its_last_batch_nothing(zeros: int) -> None:
    expected = [(batch.data, batch.members) for batch in planned(packed(LAYER, 9))[0]]
    assert [(batch.data, batch.members) for batch in planned(packed(LAYER + bytes(zeros), 9))[0]] == expected


def test_how_headers_arrive_behind_a_passed_over_file_changes_nothing() -> None:
    names = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(2200)]
    layer = tar([TEXTS[0], *(member(name, b"", type=tarfile.DIRTYPE) for name in names), *CODES[:6]])
    moved = next(event for event in TarParser(LayerLimits()).feed(layer) if not isinstance(event, memoryview))
    source = packed(layer, 9)
    made = [
        [
            batch.members
            for batch in planned(source, feed=feed, prioritized=[Prioritized(moved, bytearray(TEXTS[0][1]))])[0]
        ]
        for feed in (97, len(source))  # the first of them cuts the header at which the second batch begins
    ]
    assert made[0] == made[1]


def test_files_that_were_moved_to_the_front_leave_a_hole_and_nothing_wrong() -> None:
    parser = TarParser(LayerLimits())
    entries = [event for event in parser.feed(LAYER) if not isinstance(event, memoryview)]
    moved = next(entry for entry in entries if entry.name == CODES[5][0].name)
    batches, _ = planned(packed(LAYER, 9), prioritized=[Prioritized(moved, bytearray(CODES[5][1]))])
    data = b"".join(batch.data for batch in batches)
    assert data.count(CODES[5][1]) == 1
    assert data.index(CODES[5][1]) < data.index(TEXTS[0][1])
    assert reused(batches) == {True, False}


async def test_a_converted_layer_is_converted_again() -> None:
    _, once = await convert(packed(LAYER, 9))
    made, twice = await convert(once)
    toc, _ = await validate(ranges(twice), len(twice), made.descriptor.annotations[ANNOTATION_TOC_DIGEST])
    for info, data in (*TEXTS, *CODES):
        assert await read_file(ranges(twice), toc, info.name) == data


def test_padding_that_is_not_zero_becomes_zero_whatever_the_matches_say() -> None:
    filled = bytearray(tar([member("a", b"a" * 1000), *TEXTS, *CODES]))
    filled[512 + 1000 : 512 + 1024] = b"padding that is text, 24"
    batches, _ = planned(packed(bytes(filled), 9))
    assert b"padding that is text" not in b"".join(batch.data for batch in batches)
    assert True in reused(batches)


MUCH = b"".join(data for _, data in TEXTS) * 8
ENOUGH = 4 << 20
"""Bytes of records: of what is under way, not of all that went by."""


def test_what_follows_the_archives_end_is_not_kept() -> None:
    source = packed(LAYER + MUCH, 6)
    whole = GzipMatches()
    list(whole.feed(source))
    assert len(whole.matches(0, 1 << 40).records) > 2 * ENOUGH
    _, planner = planned(source)
    assert planner.stream is not None
    assert len(planner.stream.matches(0, 1 << 40).records) < ENOUGH


def test_matches_are_not_kept_while_a_file_is_passed_over() -> None:
    layer = tar([*TEXTS, member("large", MUCH)])
    entries = [event for event in TarParser(LayerLimits()).feed(layer) if not isinstance(event, memoryview)]
    planner = Planner(ADAPTIVE, MemberEncoder())
    cutter = Cutter(4 << 20, LayerLimits(), Names(), [Prioritized(entries[-1], bytearray(MUCH))], planner)
    list(cutter.start())
    source = packed(layer, 6)
    assert planner.stream is not None
    held = []
    for at in range(0, len(source), 100_000):
        list(cutter.feed(source[at : at + 100_000]))
        held.append(len(planner.stream.matches(0, 1 << 40).records))
    assert max(held) < ENOUGH
