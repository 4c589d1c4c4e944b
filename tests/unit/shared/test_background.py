"""What goes on beside a block ends with it, and tells when it ends before."""

from __future__ import annotations

import asyncio

import pytest

from shared.background import beside


async def test_it_ends_with_the_block() -> None:
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with beside(forever(), "waiting"):
        await asyncio.sleep(0)
        assert not ended.is_set()
    assert ended.is_set()


async def test_a_defect_is_logged_when_it_happens_and_the_block_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise KeyError("of a defect")

    async with beside(broken(), "counting"):
        await asyncio.sleep(0.01)
        assert "counting ended by a defect" in caplog.text
        assert "KeyError" in caplog.text
