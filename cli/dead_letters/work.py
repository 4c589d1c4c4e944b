"""One operation on the dead letters of the configured broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cli.running import running
from cli.settings import settings_for
from shared.broker.api import Broker
from shared.broker.open import open_broker, require_existing
from shared.dead_letter_operations import DeadLetterOperations
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    broker: Broker
    operations: DeadLetterOperations


def with_letters(config: Path | None, use: Callable[[Work], Awaitable[T]]) -> T:
    """Open the configured broker (the embedded one of a running `ics up`, too) for one operation."""

    async def body() -> T:
        settings = settings_for(config)
        require_existing(settings)
        tracing = Tracing.from_environment("ics-cli", enabled=settings.telemetry.enabled)
        try:
            async with open_broker(settings) as broker:
                await broker.check_health()
                operations = DeadLetterOperations(
                    settings, broker, tracing=tracing, metrics=Metrics(process_metrics=False)
                )
                return await use(Work(broker, operations))
        finally:
            tracing.shutdown()

    with running() as runner:
        return runner.run(body())
