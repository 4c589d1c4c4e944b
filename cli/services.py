"""``ics up``, ``ics ingress``, ``ics consumer``: the long-running processes."""

from __future__ import annotations

import asyncio

from cli.errors import told
from cli.options import ConfigOption
from cli.process import Process, run_process
from cli.settings import settings_for
from consumer.main import run_consumer
from ingress.app import create_app
from ingress.server import serve
from shared.broker.open import open_broker


def up(config: ConfigOption = None) -> None:
    """Run everything in one process: broker (embedded unless configured), ingress and consumer.

    For one machine and for trying things out. Ctrl-C drains: what is being converted gets `timeouts.drain` seconds, the rest
    goes back to the queue.

    Example: `ics up --config config.yml`
    """
    with told():
        run_process(settings_for(config), "up", _everything)


def ingress(config: ConfigOption = None) -> None:
    """Run an ingress: takes webhooks, answers 202 once the broker has confirmed, serves status API and console.

    Any number of replicas may run behind a load balancer.

    Example: `ICS_BROKER__URL=amqp://ics:secret@rabbitmq/ ics ingress`
    """
    with told():
        run_process(settings_for(config), "ingress", _ingress)


def consumer(config: ConfigOption = None) -> None:
    """Run a consumer: takes up to `maximum_concurrency` requests at once, converts, pushes, acknowledges.

    Any number of consumers may share a queue. SIGTERM drains.

    Example: `ICS_BROKER__URL=amqp://ics:secret@rabbitmq/ ics consumer`
    """
    with told():
        run_process(settings_for(config), "consumer", _consumer)


async def _ingress(process: Process) -> None:
    async with open_broker(process.settings) as broker:
        app = create_app(process.settings, broker, metrics=process.metrics, tracing=process.tracing)
        await serve(process.settings, app, process.stop)


async def _consumer(process: Process) -> None:
    await run_consumer(process.settings, metrics=process.metrics, tracing=process.tracing, stop=process.stop)


async def _everything(process: Process) -> None:
    """One broker connection for both; whichever ends first ends the other."""
    async with open_broker(process.settings) as broker:
        app = create_app(process.settings, broker, metrics=process.metrics, tracing=process.tracing)

        async def until_stop(part: str) -> None:
            try:
                if part == "ingress":
                    await serve(process.settings, app, process.stop)
                else:
                    await run_consumer(
                        process.settings,
                        metrics=process.metrics,
                        tracing=process.tracing,
                        stop=process.stop,
                        broker=broker,
                        serve=False,
                    )
            finally:
                process.stop.set()

        results = await asyncio.gather(until_stop("ingress"), until_stop("consumer"), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
