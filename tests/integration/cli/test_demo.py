"""``ics demo --keep``: what it says can be run beside it, in another shell, is so."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.waiting import PATIENCE

EXPECTED = {
    "dead-letters": "no dead letters",
    "config": "embedded:",
    "convert": "/demo/python:latest_nydus",
    "check": "sound; ",
    "backfill": "would be enqueued",
}
"""Word of the command line → what its answer holds."""


async def test_the_commands_that_it_shows_work_beside_it(tmp_path: Path) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ICS_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DOCKER_CONFIG": str(tmp_path / "none"),
        "TMPDIR": str(tmp_path),
    }
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "demo", "--keep"),
        stdout=asyncio.subprocess.PIPE,
        cwd=tmp_path,
        env=environment,
    )
    try:
        said = await asyncio.wait_for(_until_it_is_kept(demo), 4 * PATIENCE)
        commands = [line.strip() for line in said if line.startswith("  ICS_CONFIG=")]
        answers = {command: await _answer(command, tmp_path, environment) for command in commands}
    finally:
        if demo.returncode is None:
            demo.send_signal(signal.SIGTERM)
        await demo.communicate()
    found = {command.split()[2]: answer for command, answer in answers.items()}
    assert set(found) == set(EXPECTED), said
    for word, answer in found.items():
        assert EXPECTED[word] in answer
    assert demo.returncode == 0  # it was told to end
    assert list(tmp_path.glob("ics-demo-*")) == []


async def _until_it_is_kept(demo: asyncio.subprocess.Process) -> list[str]:
    assert demo.stdout is not None
    lines: list[str] = []
    async for line in demo.stdout:
        lines.append(line.decode().rstrip("\n"))
        if lines[-1].startswith("  curl "):
            return lines
    raise AssertionError("\n".join(lines))


async def _answer(command: str, folder: Path, environment: dict[str, str]) -> str:
    """As a person who copies it gets it."""
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=folder, env=environment
    )
    said, _ = await asyncio.wait_for(process.communicate(), 4 * PATIENCE)
    assert process.returncode == 0, f"{command}: {said.decode()}"
    return said.decode()
