"""The event loop of one command, and how a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from cli.errors import told


@contextmanager
def running() -> Iterator[asyncio.Runner]:
    """Known errors are told. Ctrl-C and SIGTERM cancel what runs, so that uploads and files under way are taken back."""
    with told(), _terminated_as_interrupted(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are not ours there
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
