"""What was measured, one JSON file a benchmark: a partial run replaces only its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """One benchmark's."""

    name: str
    made_at: str
    commit: str
    command: str
    rounds: int
    quick: bool
    seconds: float
    """Of the whole part, inputs included where they had to be made."""
    others: float
    """Cores that others kept busy just before or just after, whichever is more; about 0 on a quiet machine."""
    machine: dict[str, str]
    data: dict[str, Any]


def save(outcome: Outcome, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{outcome.name}.json").write_text(json.dumps(asdict(outcome), indent=1) + "\n")


def load(folder: Path) -> dict[str, Outcome]:
    """Benchmark → its newest outcome."""
    return {path.stem: Outcome(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))}
