"""A command that is ended by a signal takes back what it has begun."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.servers.scripted import scripted_server


def as_in_the_background() -> None:
    """A shell that runs a script starts its background jobs so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def as_on_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("number", "started"), [(signal.SIGINT, as_on_a_terminal), (signal.SIGTERM, as_in_the_background)]
)
async def test_a_conversion_leaves_nothing_behind(
    number: signal.Signals, started: Callable[[], None], tmp_path: Path
) -> None:
    asked = asyncio.Event()

    async def hangs(_request: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.sleep(60)
        raise AssertionError

    async with scripted_server(hangs) as host:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "convert", "--insecure"),
            *(f"{host}/library/app:1", f"docker-archive:{tmp_path}/lazy.tar:app:1"),
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=started,
            env={**os.environ, "DOCKER_CONFIG": str(tmp_path / "none"), "ICS_CONFIG": "/dev/null"},
        )
        async with asyncio.timeout(60):
            await asked.wait()
            assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".lazy.tar-")]
            process.send_signal(number)
            _, said = await process.communicate()
    assert process.returncode == 130
    assert said == b"ics: interrupted\n"
    assert list(tmp_path.iterdir()) == []
