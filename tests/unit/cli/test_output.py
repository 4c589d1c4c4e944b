"""What becomes of a command whose output cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_full_disk_under_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "ics: the output: No space left on device [cannot_write]\n"
