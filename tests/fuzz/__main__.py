"""``python -m tests.fuzz``: mutate the corpus for as long as told; inputs that break a reader are kept."""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="all by default")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs")
    parser.add_argument("--keep", type=Path, default=Path("var/fuzz"), help="where breaking inputs go")
    arguments = parser.parse_args()
    chosen = arguments.target or sorted(TARGETS)
    broken = 0
    for target in chosen:
        corpus, rng = seeds(target), random.Random(f"{target} {arguments.seed}")
        end, rounds, told = time.monotonic() + arguments.seconds / len(chosen), 0, set()
        while time.monotonic() < end:
            data = mutated(corpus, rng)
            rounds += 1
            try:
                TARGETS[target](data)
            except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
                if place in told:
                    continue
                told.add(place)
                arguments.keep.mkdir(parents=True, exist_ok=True)
                kept = arguments.keep / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}"
                kept.write_bytes(data)
                print(f"{target}: {place}: {error}; kept as {kept}", flush=True)
        broken += len(told)
        print(f"{target}: {rounds} inputs, {len(told)} kinds of breakage", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
