"""The harness in a minute a broker: every promise holds while everything around the service breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.__main__ import run
from tests.faults.report import problems, render
from tests.faults.scale import BrokerName, Scale


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("broker", ["rabbitmq", "nats"])
async def test_nothing_is_lost_while_everything_breaks(broker: BrokerName, tmp_path: Path) -> None:
    report = await run(broker, Scale(events=60, faults=24), tmp_path / "run")
    print(render(report))
    assert problems(report) == []
