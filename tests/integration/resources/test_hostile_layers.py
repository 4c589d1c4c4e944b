"""Layers that ask for everything are refused by the limit's name, while the consumer's memory stays flat."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.integration.resources.hostile import CASES, LIMITS, MIB

FLAT = 160 * MIB
"""What a conversion may grow by, whatever comes: its memory budget and a margin. The inputs are gigabytes."""
LIMIT = {
    "gzip bomb": "compression_ratio",
    "zstd bomb": "compression_ratio",
    "large files": "layer_size",
    "ten million entries": "layer_entries",
    "gigantic record": "pax_record",
    "records without end": "pax_record",
    "absurd size": "layer_size",
}


async def measured(driver: str, case: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.integration.resources.hostile", driver, case),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    result: dict[str, Any] = json.loads(output)
    return result


@pytest.mark.parametrize(
    ("driver", "case"),
    [*(("estargz", case) for case in CASES), ("nydus", "gzip bomb"), ("nydus", "ten million entries")],
)
async def test_the_limit_is_named_and_memory_stays_flat(driver: str, case: str) -> None:
    found = await measured(driver, case)
    assert (found["code"], found["limit"]) == ("limit_exceeded", LIMIT[case]), found
    assert f"limits.{LIMIT[case]}" in found["message"]
    assert found["grown"] < FLAT, found
    assert found["open_uploads"] == 0
    assert LIMITS.memory < FLAT
