"""The Go reference library, built once from Debian's source package and asked about our layers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "oracles" / "estargz"
GO = Path("/usr/lib/go/bin/go")
"""Debian's; another ``go`` in the PATH may have no GOPATH mode for Debian's source packages."""


@cache
def oracle() -> Path:
    """The program; one a user and source, so that parallel test workers share it.

    Raises:
        FileNotFoundError: golang-go or golang-github-containerd-stargz-snapshotter-dev is missing.
    """
    source = SOURCE / "main.go"
    built = Path(tempfile.gettempdir()) / f"ics-estargz-oracle-{os.getuid()}-{source.stat().st_mtime_ns}"
    if not built.exists():
        with tempfile.TemporaryDirectory() as folder:
            go = GO if GO.exists() else shutil.which("go")
            if go is None:
                raise FileNotFoundError(
                    "no go: apt-get install golang-go golang-github-containerd-stargz-snapshotter-dev"
                )
            environment = os.environ | {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": ""}
            command = [str(go), "build", "-o", f"{folder}/oracle", "."]
            subprocess.run(command, cwd=SOURCE, env=environment, check=True, capture_output=True, text=True)
            shutil.copy2(f"{folder}/oracle", f"{folder}/copy")
            shutil.move(f"{folder}/copy", f"{built}.{os.getpid()}")
        Path(f"{built}.{os.getpid()}").rename(built)
    return built


def ask(*arguments: str | Path) -> dict[str, Any]:
    """Run it; what it prints. Its complaint is the assertion's message."""
    done = subprocess.run([oracle(), *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
