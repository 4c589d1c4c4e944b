"""The consumer's composition root."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import orjson

from consumer.cancellations import Cancellations
from consumer.circuit import CircuitBreaker
from consumer.claims import LayerClaims
from consumer.conversion import Converter
from consumer.credentials import prove_credentials
from consumer.health import HealthCheck, serve_health
from consumer.machine import Machine
from consumer.supplies import MachineSupplies
from consumer.upload_journal import UploadJournal
from consumer.workdir import WorkDir
from consumer.worker import work
from consumer.workshop import Workshop
from drivers.api import Driver, DriverOptions
from drivers.catalogue import create_drivers, parse_options
from shared.background import beside
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.event_reporter import EventReporter
from shared.instance import INSTANCE
from shared.outgoing.notifications import Notifier
from shared.registry.client import RegistryClient
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from shared.telemetry.work_queue import WorkQueue

_log = logging.getLogger(__name__)


async def run_consumer(
    settings: Settings,
    *,
    metrics: Metrics,
    tracing: Tracing,
    stop: asyncio.Event,
    broker: Broker | None = None,
    serve: bool = True,
) -> None:
    """Convert what the queue holds until ``stop`` is set, then drain.

    Args:
        settings: checked ones.
        metrics: this process's.
        tracing: this process's.
        stop: set by the signal handler.
        broker: an open one; None opens the one that the settings name.
        serve: whether to serve health and metrics; not where the ingress of the same process does.

    Raises:
        IcsError: the process cannot work with these settings.
    """
    async with AsyncExitStack() as stack:
        if broker is None:
            broker = await stack.enter_async_context(open_broker(settings))
        work_dir = await stack.enter_async_context(WorkDir.claim(settings.work_dir, settings.limits.work_dir))
        stack.enter_context(work_dir.temporary_files())
        await stack.enter_async_context(work_dir.collecting())
        drivers = create_drivers(settings.limits)
        uploads = UploadJournal(work_dir.uploads)
        registry = await stack.enter_async_context(
            RegistryClient.from_settings(settings, observer=metrics, sessions=uploads)
        )
        await stack.enter_async_context(beside(prove_credentials(registry, settings.auths), "proving credentials"))
        await stack.enter_async_context(uploads.cancelling(registry.cancel_upload))
        notifier = await stack.enter_async_context(Notifier.from_settings(settings, metrics))
        reporter = await stack.enter_async_context(EventReporter(broker.events, metrics, (notifier,)).running())
        cancellations = Cancellations(broker.cancellations, settings.broker.events_max_age, metrics)
        used = _used(settings, drivers)
        machine = Machine(MachineSupplies([work_dir.path, *_folders(used)]), metrics)
        workshop = Workshop(
            settings=settings,
            converter=Converter(
                drivers,
                registry,
                registry,
                limits=settings.limits,
                cache=settings.cache,
                metrics=metrics,
                claims=LayerClaims.of(broker, settings.timeouts, metrics),
            ),
            circuits=CircuitBreaker(metrics),
            machine=machine,
            cancellations=await stack.enter_async_context(cancellations.following()),
            ask=registry.resolve,
            reporter=reporter,
            metrics=metrics,
            tracing=tracing,
            queue=WorkQueue.of(settings),
            extend_interval=broker.extend_interval,
        )
        metrics.concurrency(settings.maximum_concurrency)
        if serve and settings.metric.enabled:
            check = HealthCheck(broker, used, machine, metrics)
            await stack.enter_async_context(serve_health(settings, check, metrics))
        _log.info("consumer %s takes up to %d conversions at once", INSTANCE, settings.maximum_concurrency)
        await work(broker, workshop, stop)


def _used(settings: Settings, drivers: Mapping[str, Driver]) -> list[tuple[Driver, DriverOptions]]:
    """A rule's driver and its options, for each rule: two may use one driver differently."""
    chosen = [settings.driver_of(rule) for rule in settings.rules]
    return [(drivers[each.type], parse_options(drivers[each.type], orjson.dumps(each.config))) for each in chosen]


def _folders(used: Sequence[tuple[Driver, DriverOptions]]) -> list[Path]:
    """Where drivers put files of their own, by their option ``work_dir``."""
    return [Path(folder) for _, options in used if (folder := getattr(options, "work_dir", None))]
