"""One process of the service: event loop, signals, logs, traces, metrics. Everything that lives once is made here."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from urllib.parse import unquote, urlsplit

import uvloop
from pydantic import BaseModel, SecretStr

from shared.settings.broker_url import server_urls
from shared.settings.model import Settings
from shared.telemetry.logging import configure_logging
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing

COLLECT_AFTER = (20_000, 20, 100)
"""How many new objects make the collector look at the young ones, and how many such looks it takes to look at older ones too."""


@dataclass(frozen=True)
class Process:
    """What the parts of a process share."""

    settings: Settings
    metrics: Metrics
    tracing: Tracing
    stop: asyncio.Event
    """Set by the first SIGTERM or SIGINT; a second SIGINT ends at once."""


def run_process(settings: Settings, service: str, main: Callable[[Process], Awaitable[None]]) -> None:
    """Run ``main`` until it ends, having set up what a long-running process needs.

    Raises:
        IcsError: what ``main`` raised.
    """
    metrics = Metrics(settings.telemetry.label_cap)
    tracing = Tracing.from_environment(f"ics-{service}", enabled=settings.telemetry.enabled)

    async def body() -> None:
        stop = asyncio.Event()
        with _signals(stop):
            await main(Process(settings, metrics, tracing, stop))

    # What was imported stays: the collector need not look at it again for every few hundred objects that requests make.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    with configure_logging(settings.log, service, secrets=secret_values(settings)):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(body())
        finally:
            tracing.shutdown()


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)


def secret_values(settings: Settings) -> list[str]:
    """Every secret of the settings in clear, for the log's last defence; of the URLs of broker and proxies what is secret."""
    rest = settings.model_copy(update={"broker": None})
    proxies = [
        *(each.proxy for each in settings.auths.values()),
        *(each.proxy for each in settings.harbor.values()),
        *(each.proxy for each in settings.notifications),
    ]
    urls = [url.get_secret_value() for url in (settings.broker.url, *proxies) if url is not None]
    return [*_in_clear(rest), *chain.from_iterable(map(_credentials, urls))]


def _in_clear(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        yield from _in_clear(vars(value))
    elif isinstance(value, Mapping):
        yield from _in_clear(tuple(value.values()))
    elif isinstance(value, tuple):
        for each in value:
            yield from _in_clear(each)


def _credentials(url: str) -> Iterator[str]:
    """Each server's ``user:password`` or token, and the password alone, as it stands there and as it is meant."""
    for server in server_urls(url):
        user, _, password = (credential := urlsplit(server).netloc.rpartition("@")[0]).partition(":")
        yield from {credential, password or user, unquote(password or user)} - {""}
