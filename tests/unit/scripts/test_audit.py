"""The dependency audit fails on findings, and never calls a lock audited that nobody could look up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "audit.py"
CLEAN = {"name": "sound", "version": "1", "vulns": []}
FOUND = {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}


def audited(folder: Path, answer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with a pip-audit that says ``answer``."""
    package = folder / "pip_audit"
    package.mkdir()
    (package / "__init__.py").touch()  # else the real one goes first
    (package / "__main__.py").write_text(f"print({answer!r})")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def report(*entries: dict[str, Any]) -> str:
    return json.dumps({"dependencies": entries})


@pytest.mark.parametrize(
    ("answer", "arguments", "code", "said"),
    [
        (report(CLEAN, CLEAN), (), 0, "2 packages looked up"),
        (report(CLEAN, FOUND), (), 1, "bad 2: PYSEC-1, fixed in 2.1"),
        (report(CLEAN, SKIPPED), (), 0, "NOT AUDITED, PyPI's advisories do not answer for 1 of 2"),
        (report(FOUND, SKIPPED), (), 1, "NOT AUDITED"),
        (report(CLEAN, SKIPPED), ("--strict",), 1, "NOT AUDITED"),
        ("a traceback", (), 0, "NOT AUDITED, the advisories cannot be reached"),
        ("a traceback", ("--strict",), 1, "NOT AUDITED"),
    ],
)
def test_findings_fail_and_what_was_not_looked_up_is_said(
    tmp_path: Path, answer: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = audited(tmp_path, answer, *arguments)
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout
