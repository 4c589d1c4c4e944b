"""What a process of the service runs: an ingress, a consumer, or both over one broker connection.

Imported by the commands when they start: the web framework costs every other command half a second.
"""

from __future__ import annotations

import asyncio

from cli.process import Process
from consumer.main import run_consumer
from ingress.app import create_app
from ingress.server import serve
from shared.broker.open import open_broker


async def run_ingress(process: Process) -> None:
    async with open_broker(process.settings) as broker:
        app = create_app(process.settings, broker, metrics=process.metrics, tracing=process.tracing)
        await serve(process.settings, app, process.stop)


async def run_consumer_alone(process: Process) -> None:
    await run_consumer(process.settings, metrics=process.metrics, tracing=process.tracing, stop=process.stop)


async def run_everything(process: Process) -> None:
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
