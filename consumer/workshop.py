"""What every attempt of a consumer uses, put together once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from consumer.cancellations import Cancellations
from consumer.circuit import CircuitBreaker
from consumer.conversion import Converter
from consumer.machine import Machine
from shared.event_reporter import EventReporter
from shared.oci.reference import Reference
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from shared.telemetry.work_queue import WorkQueue


@dataclass(frozen=True)
class Workshop:
    settings: Settings
    converter: Converter
    circuits: CircuitBreaker
    machine: Machine
    cancellations: Cancellations
    ask: Callable[[Reference], Awaitable[object]]
    """Ask a registry for a manifest that is there or not: what only a registry that works can tell."""
    reporter: EventReporter
    metrics: Metrics
    tracing: Tracing
    queue: WorkQueue
    extend_interval: float
