"""Every seed, and a few seconds of what follows from them; the long run is ``python -m tests.fuzz``."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import sanitized
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, seeds

ROUNDS = 400


@pytest.mark.parametrize("target", TARGETS)
def test_no_seed_breaks_its_reader(target: str) -> None:
    corpus = seeds(target)
    assert len(corpus) >= 5
    for data in corpus:
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_follows_from_the_seeds_breaks_a_reader(target: str) -> None:
    corpus = seeds(target)
    rng = random.Random(f"{target} 1")
    for number in range(ROUNDS):
        data = mutated(corpus, rng)
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"round {number}: {data[:200]!r} ({len(data)} bytes)") from error


def test_the_c_code_stays_within_its_arrays_and_within_what_c_defines_and_judges_as_zlib(tmp_path: Path) -> None:
    program = sanitized.build(tmp_path)
    inputs = seeds("deflate") + sanitized.piece_ends() + sanitized.mutations(random.Random(1), 3 * ROUNDS)
    assert sanitized.breach(program, inputs) == ""
