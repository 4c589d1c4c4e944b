"""Batches packed in child processes give the same bytes, and a child's death costs nothing but speed."""

from __future__ import annotations

import gc
import os
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
from drivers.estargz.packing import NUMBERS, REQUEST, RESPONSE, pack, serve
from drivers.estargz.workers import Workers
from tests.unit.drivers.layer_blobs import convert, member, tar

COUNT = SMALL_MEMBERS * 4
DATA = os.urandom(COUNT * 1000)
STARTS = array(NUMBERS, range(0, COUNT * 1000, 1000))
PAYLOADS = array(NUMBERS, [700] * COUNT)


def level(number: int) -> bytes:
    return bytes((number,)) * COUNT


def children() -> set[int]:
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def warmed() -> Packer:
    packer = Packer()
    for _ in range(START_AFTER + 1):
        packer.pack(DATA, STARTS, PAYLOADS, level(1))
    return packer


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=50), st.integers(0, 9))
def test_the_program_answers_as_the_function(parts: list[bytes], lowest: int) -> None:
    data = b"".join(parts)
    starts = array(NUMBERS, [sum(map(len, parts[:index])) for index in range(len(parts))])
    payloads = array(NUMBERS, [len(part) // 2 for part in parts])
    levels = bytes(min(lowest + index, 9) for index in range(len(parts)))
    request = REQUEST.pack(len(parts), len(data)) + starts.tobytes() + payloads.tobytes() + levels + data
    answer = BytesIO()
    serve(BytesIO(request * 2), answer)
    sizes, digests, members = pack(data, starts, payloads, levels)
    assert answer.getvalue() == (RESPONSE.pack(len(members)) + sizes.tobytes() + digests + members) * 2


def test_a_child_gives_the_same_bytes_and_ends_with_its_packer() -> None:
    before = children()
    warm = warmed()
    assert len(children() - before) == 1
    with ThreadPoolExecutor(4) as threads:
        packed = list(threads.map(partial(warm.pack, DATA, STARTS, PAYLOADS), [level(each) for each in (1, 6, 7)] * 4))
    assert packed == [pack(DATA, STARTS, PAYLOADS, level(each)) for each in (1, 6, 7)] * 4
    assert 1 <= len(children() - before) <= 4
    del warm
    gc.collect()
    assert children() - before == set()


def test_a_few_members_stay_here() -> None:
    before = children()
    packer = Packer()
    for _ in range(START_AFTER + 2):
        packer.pack(DATA, STARTS[:2], PAYLOADS[:2], bytes((1, 1)))
    assert children() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_child_is_replaced_and_a_signalled_group_goes_on(number: signal.Signals) -> None:
    before = children()
    packer = warmed()
    for pid in children() - before:
        os.kill(pid, number)
    assert packer.pack(DATA, STARTS, PAYLOADS, level(6)) == pack(DATA, STARTS, PAYLOADS, level(6))
    assert packer.pack(DATA, STARTS, PAYLOADS, level(6)) == pack(DATA, STARTS, PAYLOADS, level(6))


def test_without_an_interpreter_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent")
    assert warmed().pack(DATA, STARTS, PAYLOADS, level(6)) == pack(DATA, STARTS, PAYLOADS, level(6))


async def test_a_layer_of_many_small_files_is_the_same_with_and_without_children() -> None:
    layer = tar([member(f"f{number}", b"%d" % number) for number in range(10_000)])
    before = children()
    workers = Workers(threads=2)
    _, blob = await convert(layer, workers=workers)
    assert children() - before
    workers = Workers(threads=1)
    workers._packer.pack = pack  # type: ignore[method-assign]
    assert (await convert(layer, workers=workers))[1] == blob
