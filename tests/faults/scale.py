"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BrokerName = Literal["rabbitmq", "nats"]
FAULT_PAUSE = (0.05, 0.6)
"""Seconds between two faults, at least and at most."""


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    events: int
    faults: int
    consumers: int = 3
    ingresses: int = 2
    seed: int = 1
    settle: float = 300
    """Seconds that accepted events get to end after the last fault."""
