"""``python -m benchmarks [NAME...]``: measure, keep what was measured, write the report of everything that was kept."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
import time
import traceback
from pathlib import Path

from benchmarks import machine, report, results
from benchmarks.bench import ROOT, Bench
from benchmarks.parts import PARTS

MEASURED = "measured"
"""Folder of the outcomes, beside the report."""


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.ERROR)
    bench = Bench(
        cache=arguments.cache,
        scratch=arguments.cache / "scratch",
        rounds=arguments.rounds,
        quick=arguments.quick,
        nydus_image=arguments.nydus_image,
    )
    default = arguments.cache / "quick-report" / "REPORT.md" if bench.quick else ROOT / "benchmarks" / "REPORT.md"
    path: Path = arguments.report or default
    measured = path.parent / MEASURED
    failed: dict[str, str] = {}
    for name in [] if arguments.render else arguments.names or PARTS:
        print(f"{name}: {PARTS[name].title}", flush=True)
        others, start = machine.busy(), time.perf_counter()
        try:
            data = PARTS[name].measure(bench)
        except Exception as error:  # noqa: BLE001  one part's failure must not cost the others' figures
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        seconds = time.perf_counter() - start
        results.save(
            results.Outcome(
                name=name,
                made_at=machine.now(),
                commit=machine.commit(),
                command=_command(),
                rounds=bench.rounds,
                quick=bench.quick,
                seconds=seconds,
                others=max(others, machine.busy()),
                machine=machine.describe(),
                data=data,
            ),
            measured,
        )
        print(f"{name}: {seconds:.0f} s", flush=True)
    report.write(path, results.load(measured), failed)
    print(f"report: {path}")
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", type=_name, help=f"only these parts: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=_count, default=3, help="how often each contender is measured (3)")
    parser.add_argument(
        "--quick", action="store_true", help="small inputs, no network: tries the benchmarks themselves"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / "var" / "bench", help="where inputs are kept (var/bench)")
    parser.add_argument("--nydus-image", type=Path, help="the reference builder, to measure Nydus against")
    parser.add_argument("--report", type=Path, help="default: benchmarks/REPORT.md; with --quick, in the cache")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the report of what was kept")
    return parser


def _name(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"no part {text!r}; there are: {', '.join(PARTS)}")
    return text


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _command() -> str:
    """As it can be repeated elsewhere: names of this machine's files without their folders."""
    return shlex.join(["python", "-m", "benchmarks", *(re.sub(r"/\S*/", "", argument) for argument in sys.argv[1:])])


if __name__ == "__main__":
    sys.exit(main())
