"""The real brokers that a run can use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.fleet import RestartableBroker
from tests.faults.scale import BrokerName
from tests.servers.nats import nats
from tests.servers.rabbitmq import rabbitmq


@contextmanager
def running_broker(name: BrokerName, folder: Path) -> Iterator[RestartableBroker]:
    """A server of its own, stopped at the end."""
    with rabbitmq(folder) if name == "rabbitmq" else nats(folder) as server:
        yield server
