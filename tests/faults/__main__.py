"""``python -m tests.faults``: the long run, as ``make chaos`` starts it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.faults.account import Report
from tests.faults.brokers import running_broker
from tests.faults.harness import run_on
from tests.faults.report import problems, render
from tests.faults.scale import BrokerName, Scale


async def run(name: BrokerName, scale: Scale, folder: Path) -> Report:
    """One run on one broker, everything it needs started and stopped."""
    folder.mkdir(parents=True)
    with running_broker(name, folder / "broker") as server:
        return await run_on(scale, name, server, folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--events", type=int, default=2000, help="webhooks to send on each broker")
    parser.add_argument("--faults", type=int, default=200, help="faults to inject on each broker")
    parser.add_argument("--broker", choices=("rabbitmq", "nats", "both"), default="both")
    parser.add_argument("--seed", type=int, default=1, help="the same seed plans the same faults")
    parser.add_argument("--keep", type=Path, help="keep logs and data in this folder")
    arguments = parser.parse_args()
    names: tuple[BrokerName, ...] = ("rabbitmq", "nats") if arguments.broker == "both" else (arguments.broker,)
    scale = Scale(events=arguments.events, faults=arguments.faults, seed=arguments.seed)
    broken = 0
    with tempfile.TemporaryDirectory(prefix="ics-faults-") as temporary:
        for name in names:
            report = asyncio.run(run(name, scale, (arguments.keep or Path(temporary)) / name))
            print(render(report), flush=True)
            for problem in problems(report):
                broken += 1
                print(f"BROKEN: {problem}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
