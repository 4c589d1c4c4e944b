"""One run: start everything, post webhooks while faults are injected, settle, account, replay, account again."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.faults.account import Accountant, Report
from tests.faults.fleet import Fleet, RestartableBroker, running_fleet
from tests.faults.pusher import Pusher
from tests.faults.scale import BrokerName, Scale
from tests.faults.striker import Striker


async def run_on(scale: Scale, broker: BrokerName, server: RestartableBroker, folder: Path) -> Report:
    """One run against a broker that is up; ``folder`` takes data and logs."""
    async with running_fleet(scale, server, folder) as fleet:
        return await _run(fleet, Report(broker, scale))


async def _run(fleet: Fleet, report: Report) -> Report:
    rng = random.Random(report.scale.seed)
    accountant = Accountant(fleet, report)
    pusher = Pusher(fleet, report, rng)
    striker = Striker(fleet, report, rng, pusher.move)
    started = asyncio.get_running_loop().time()
    watcher = asyncio.create_task(accountant.watch())
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(pusher.post_all())
            group.create_task(striker.strike_all())
        await striker.calm()
        await pusher.moved()
        await accountant.settle()
        await accountant.judge_dead_letters()
        fleet.broken.clear()  # somebody mends them
        await accountant.replay()
        await accountant.read_back()
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await striker.returned()
    report.seconds = asyncio.get_running_loop().time() - started
    return report
