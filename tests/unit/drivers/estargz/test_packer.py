"""Batches packed in child processes give the same bytes, and a child's death costs nothing but speed."""

from __future__ import annotations

import gc
import gzip
import os
import random
import signal
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.estargz.packer import SMALL_MEMBERS, START_AFTER, Packer
from drivers.estargz.packing import ADAPTIVE, NUMBERS, REQUEST, RESPONSE, adaptive_level, pack, serve
from drivers.estargz.workers import Workers
from tests.unit.drivers.layer_blobs import convert, member, tar

COUNT = SMALL_MEMBERS * 4
DATA = os.urandom(COUNT * 1000)
STARTS = array(NUMBERS, range(0, COUNT * 1000, 1000))
PAYLOADS = array(NUMBERS, [700] * COUNT)


NOISE = random.Random(1).randbytes(300 << 10)
TEXT = b"".join(b"%d lines of text, and a number: %d\n" % (line, line * line) for line in range(20_000))


@pytest.mark.parametrize(
    ("data", "level"),
    [
        (TEXT[:4096], 5),
        (TEXT[: 16 << 10], 6),
        (TEXT[: 17 << 10], 7),
        (TEXT[: 256 << 10], 7),
        (TEXT[: 257 << 10], 6),
        (b"\x7fELF\0" + TEXT[: 100 << 10], 5),
        (NOISE, 0),
        (NOISE[: 32 << 10], 0),
        (NOISE[: 8 << 10], 5),
        (NOISE[: 200 << 10] + TEXT[: 100 << 10], 5),  # one sample that shrinks is enough
    ],
)
def test_a_members_level_follows_from_its_content(data: bytes, level: int) -> None:
    around = b"x" * 100
    assert adaptive_level(around + data + around, 100, len(data), 100 + len(data)) == level
    starts, payloads = array(NUMBERS, [0]), array(NUMBERS, [len(data)])
    assert pack(data, starts, payloads, ADAPTIVE) == pack(data, starts, payloads, level)


def test_every_members_level_is_its_own() -> None:
    data = TEXT[: 20 << 10] + NOISE + TEXT[: 1 << 10]
    starts, payloads = array(NUMBERS, [0, 20 << 10, 320 << 10]), array(NUMBERS, [20 << 10, 300 << 10, 1 << 10])
    sizes, _, members = pack(data, starts, payloads, ADAPTIVE)
    assert gzip.decompress(members) == data
    assert sizes[1] > len(NOISE)
    assert sizes[0] < 10 << 10


def children() -> set[int]:
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def warmed() -> Packer:
    packer = Packer()
    for _ in range(START_AFTER + 1):
        packer.pack(DATA, STARTS, PAYLOADS, 1)
    return packer


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=50), st.integers(-1, 9))
def test_the_program_answers_as_the_function(parts: list[bytes], level: int) -> None:
    data = b"".join(parts)
    starts = array(NUMBERS, [sum(map(len, parts[:index])) for index in range(len(parts))])
    payloads = array(NUMBERS, [len(part) // 2 for part in parts])
    request = REQUEST.pack(len(parts), len(data), level) + starts.tobytes() + payloads.tobytes() + data
    answer = BytesIO()
    serve(BytesIO(request * 2), answer)
    sizes, digests, members = pack(data, starts, payloads, level)
    assert answer.getvalue() == (RESPONSE.pack(len(members)) + sizes.tobytes() + digests + members) * 2


def test_a_child_gives_the_same_bytes_and_ends_with_its_packer() -> None:
    before = children()
    warm = warmed()
    assert len(children() - before) == 1
    with ThreadPoolExecutor(4) as threads:
        packed = list(threads.map(partial(warm.pack, DATA, STARTS, PAYLOADS), [1, 6, 7] * 4))
    assert packed == [pack(DATA, STARTS, PAYLOADS, level) for level in [1, 6, 7] * 4]
    assert 1 <= len(children() - before) <= 4
    del warm
    gc.collect()
    assert children() - before == set()


def test_a_few_members_stay_here() -> None:
    before = children()
    packer = Packer()
    for _ in range(START_AFTER + 2):
        packer.pack(DATA, STARTS[:2], PAYLOADS[:2], 1)
    assert children() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_child_is_replaced_and_a_signalled_group_goes_on(number: signal.Signals) -> None:
    before = children()
    packer = warmed()
    for pid in children() - before:
        os.kill(pid, number)
    assert packer.pack(DATA, STARTS, PAYLOADS, 6) == pack(DATA, STARTS, PAYLOADS, 6)
    assert packer.pack(DATA, STARTS, PAYLOADS, 6) == pack(DATA, STARTS, PAYLOADS, 6)


def test_without_an_interpreter_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent")
    assert warmed().pack(DATA, STARTS, PAYLOADS, 6) == pack(DATA, STARTS, PAYLOADS, 6)


async def test_a_layer_of_many_small_files_is_the_same_with_and_without_children() -> None:
    layer = tar([member(f"f{number}", b"%d" % number) for number in range(10_000)])
    before = children()
    workers = Workers(threads=2)
    _, blob = await convert(layer, workers=workers)
    assert children() - before
    workers = Workers(threads=1)
    workers._packer.pack = pack  # type: ignore[method-assign]
    assert (await convert(layer, workers=workers))[1] == blob
