"""The systemd unit is one that systemd understands, and gives the service no more than it needs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from shared.settings.model import Timeouts

UNIT = Path(__file__).parents[3] / "deploy/systemd/ics@.service"
EXPOSURE = 25
"""Tenths; systemd's own scale ends at 10, and calls anything below 5 fine."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """An instance of it whose program exists here."""
    found = tmp_path / "ics@ingress.service"
    found.write_text(UNIT.read_text().replace("/opt/ics/bin/ics", "/usr/bin/env"))
    return found


def test_it_is_valid(unit: Path) -> None:
    done = subprocess.run(("systemd-analyze", "verify", unit), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_confined(unit: Path) -> None:
    command = ("systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE}", unit)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_waits_for_the_drain() -> None:
    found = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert found
    assert int(found[1]) > Timeouts().drain
