"""``python -m tests.fuzz.sanitized``: fuzz the C code built with its compiler's checks; inputs that break one are kept.

``reencoding.c`` says what must hold, and is what coverage-guided fuzzers take, too:
``clang -DLIBFUZZER -fsanitize=fuzzer,address,undefined tests/fuzz/reencoding.c drivers/reencoding/*.c -lz``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.mutations import mutated
from tests.fuzz.targets import seeds

ROOT = Path(__file__).parents[2]
FLAGS = (
    "-std=c11", "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
    "-no-pie",  # kernels that randomise addresses much may put others where the sanitizer keeps its own
)  # fmt: skip
LARGEST = 1 << 15
ROUND = 500


def build(folder: Path) -> Path:
    """Compile the driver."""
    program = folder / "reencoding"
    sources = (ROOT / "tests/fuzz/reencoding.c", *sorted((ROOT / "drivers/reencoding").glob("*.c")))
    subprocess.run(("cc", *FLAGS, *sources, "-lz", "-o", program), check=True)
    return program


def breach(program: Path, inputs: Sequence[bytes]) -> str:
    """What the first check that one of ``inputs`` broke had to say; empty if all held."""
    with tempfile.NamedTemporaryFile() as file:
        for data in inputs:
            file.write(len(data).to_bytes(4, "little") + data)
        file.flush()
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # which needs to trace processes
        done = subprocess.run((program, file.name), env=environment, capture_output=True, text=True, check=False)
    return done.stderr or (f"ended with {done.returncode}" if done.returncode else "")


def piece_ends() -> list[bytes]:
    """Long matches on every eighth byte before the end of the mebibyte that inflate gives at a time."""
    compressor = zlib.compressobj(wbits=-15)
    run = compressor.compress(b"of eleven, " * 100_000) + compressor.flush()
    stored = [b"\0" + size.to_bytes(2, "little") + (0xFFFF - size).to_bytes(2, "little") for size in range(0, 264, 8)]
    return [b"\xff\1" + head + bytes(8 * number) + run for number, head in enumerate(stored)]


def mutations(rng: random.Random, count: int) -> list[bytes]:
    corpus = seeds("deflate")
    return [mutated(corpus, rng, maximum=LARGEST) for _ in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.sanitized", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs")
    parser.add_argument("--keep", type=Path, default=Path("var/fuzz"), help="where breaking inputs go")
    arguments = parser.parse_args()
    rng, rounds, broken = random.Random(arguments.seed), 0, 0
    end = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        while time.monotonic() < end:
            inputs = mutations(rng, ROUND)
            rounds += 1
            for data in inputs if breach(program, inputs) else ():
                if said := breach(program, [data]):
                    broken += 1
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    kept = arguments.keep / f"deflate-{hashlib.sha256(data).hexdigest()[:12]}"
                    kept.write_bytes(data)
                    print(f"{said}\nkept as {kept}", flush=True)
    print(f"{rounds * ROUND} inputs, {broken} broke a check")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
