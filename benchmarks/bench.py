"""What every benchmark is given: its size, its folders, and processes of their own to measure in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bench:
    """One run of the command."""

    cache: Path
    """Inputs, kept from run to run."""
    scratch: Path
    """Everything else; emptied after each use."""
    rounds: int
    quick: bool
    """Small generated inputs: to try the benchmarks themselves, not to measure."""
    nydus_image: Path | None = None
    """The reference builder."""

    def say(self, text: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """An empty one, removed at the end."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def child(task: str, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a task of :mod:`benchmarks.child` in a process of its own; its memory and CPU time are then its own.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.child", task, json.dumps(arguments)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "ICS_"))}
    done = subprocess.run(
        command, cwd=ROOT, env={**clean, **(environment or {})}, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{task} failed: {done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def interleaved(bench: Bench, contenders: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Each contender once a round, so that what disturbs the machine disturbs all of them; the medians of what they return."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(bench.rounds):
        for name, contend in contenders.items():
            runs[name].append(contend())
    return {name: medians(results) for name, results in runs.items()}


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Key by key over the numbers; ``wall_spread`` is slowest minus fastest over the median."""
    found: dict[str, Any] = {
        key: median(run[key] for run in runs) for key, value in runs[0].items() if isinstance(value, int | float)
    }
    if "wall" in found:
        walls = [run["wall"] for run in runs]
        found["wall_spread"] = (max(walls) - min(walls)) / found["wall"]
    return found
