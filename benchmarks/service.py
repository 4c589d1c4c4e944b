"""One ``ics`` process as an operator starts it, for as long as something is measured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

_START = 60.0


@contextmanager
def running(
    role: str, folder: Path, configuration: Mapping[str, Any], health: str, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """``ics ROLE`` with this configuration, healthy; gives its process id and ends it with SIGTERM.

    Raises:
        RuntimeError: it does not become healthy; with the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / f"{role}.yml", folder / f"{role}.log"
    config.write_text(yaml.safe_dump(dict(configuration)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "ICS_"))}
    with log.open("ab") as out:
        command = [sys.executable, "-m", "cli.main", role, "--config", str(config)]
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**clean, **(environment or {})})
    try:
        deadline = time.monotonic() + _START
        while not _healthy(health):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ics {role} does not become healthy: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return bool(answer.status == 204)
    except (urllib.error.URLError, OSError):
        return False
