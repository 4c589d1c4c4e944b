"""The status side of one ingress replica, put together: read model, follower, broker monitor, live updates, access."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ingress.backfill.record import Backfills
from ingress.status.access import Access
from ingress.status.follower import Follower
from ingress.status.history import History
from ingress.status.live import Live
from ingress.status.monitor import BrokerMonitor
from ingress.status.views import StatusViews
from shared.background import beside
from shared.broker.api import Broker
from shared.dead_letter_operations import DeadLetterOperations
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Status:
    """What the status API and the console are made from. Close ``live`` when the server is told to stop."""

    broker: Broker
    metrics: Metrics
    tracing: Tracing
    history: History
    backfills: Backfills
    live: Live
    follower: Follower
    monitor: BrokerMonitor
    views: StatusViews
    access: Access
    operations: DeadLetterOperations

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The tasks behind it, for as long as the block lasts. A broker that is away only makes the data old."""
        async with (
            beside(self.follower.run(), "following the history"),
            beside(self.monitor.run(), "watching the broker"),
        ):
            try:
                yield
            finally:
                self.live.close()


def create_status(settings: Settings, broker: Broker, metrics: Metrics, tracing: Tracing) -> Status:
    history = History(settings.console.history, settings.broker.events_max_age)
    backfills = Backfills()
    live = Live()
    longest = settings.timeouts.conversion + settings.timeouts.drain
    follower = Follower(broker.events, history, backfills, live, metrics, longest=longest)
    monitor = BrokerMonitor(broker, history, metrics, follower.found)
    return Status(
        broker=broker,
        metrics=metrics,
        tracing=tracing,
        history=history,
        backfills=backfills,
        live=live,
        follower=follower,
        monitor=monitor,
        views=StatusViews(history, follower, monitor, settings.console.trace_url),
        access=Access(settings.console),
        operations=DeadLetterOperations(settings, broker, tracing=tracing, metrics=metrics),
    )
