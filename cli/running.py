"""The event loop of one command, and how a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import uvloop

from cli.errors import told

T = TypeVar("T")
_BROKER_LOGS = ("aiormq", "aio_pika", "nats", "shared.broker")


class Runner:
    """Runs coroutines one after the other, in one loop."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Raises what ``main`` raises; KeyboardInterrupt after Ctrl-C or SIGTERM."""
        terminated = False

        async def body() -> T:
            task, loop = asyncio.current_task(), asyncio.get_running_loop()

            def terminate() -> None:
                nonlocal terminated
                terminated = True
                if task is not None:
                    task.cancel()

            # Not by way of SIGINT, which a shell's background jobs ignore. Signals belong to the main thread alone.
            if threading.current_thread() is threading.main_thread():
                loop.add_signal_handler(signal.SIGTERM, terminate)
            return await main

        try:
            return self._runner.run(body())
        except asyncio.CancelledError:
            if terminated:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def running() -> Iterator[Runner]:
    """Known errors are told. Ctrl-C and SIGTERM cancel what runs, so that uploads and files under way are taken back."""
    with told(), _quiet_brokers(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield Runner(runner)


@contextmanager
def _quiet_brokers() -> Iterator[None]:
    """A broker that cannot be used ends a command with one line; the log of its connection would say it first, in other words."""
    loggers = [logging.getLogger(name) for name in _BROKER_LOGS]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
