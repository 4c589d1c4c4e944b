"""Log lines of a process: JSON or text on standard error, with the current span's ids, redacted, written by a thread of its own.

The caller never waits for the terminal or the pipe: records go through a bounded queue, and what does not fit is dropped and
counted in the next line.
"""

from __future__ import annotations

import logging
import queue
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any, TextIO

import orjson

from shared.settings.model import Log
from shared.telemetry.redaction import redact
from shared.telemetry.tracing import span_id, trace_id

_QUEUE = 10_000
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message", "asctime", "taskName", "trace_id", "span_id", "color_message", "exception",
}  # fmt: skip
_QUIET = ("aio_pika", "aiormq", "uvicorn.access", "opentelemetry", "asyncio", "httptools")
_CONNECTIONS = "aiormq.connection"
"""Says of each attempt to connect what the link, which knows the address and how often it said so, says too; and, as nobody
else, that RabbitMQ's disk or memory alarm blocks it."""


@contextmanager
def configure_logging(
    settings: Log, service: str, *, secrets: Iterable[str] = (), stream: TextIO | None = None
) -> Iterator[None]:
    """Take over the root logger until the block ends; then everything waiting is written and the earlier handlers return.

    Args:
        settings: ``log`` of the configuration.
        service: ``ingress``, ``consumer`` ...; a field of every JSON line.
        secrets: literal values to mask wherever they turn up.
        stream: standard error unless given.
    """
    records: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUE)
    output = logging.StreamHandler(stream or sys.stderr)
    formatter = _JsonFormatter if settings.format == "json" else _TextFormatter
    output.setFormatter(formatter(service, tuple(secrets)))
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [_Enqueue(records)]
    root.setLevel(settings.level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    listener = _Listener(records, output)
    listener.start()
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        listener.stop()
        output.flush()


class _Listener(QueueListener):
    def __init__(self, records: queue.Queue[logging.LogRecord], output: logging.Handler) -> None:
        super().__init__(records, output)
        self._records: queue.Queue[Any] = records

    def enqueue_sentinel(self) -> None:
        """Wait for room: the standard one raises ``Full`` when the end comes in a burst of lines."""
        self._records.put(None)


class _Enqueue(QueueHandler):
    """Adds what only the logging thread knows, and never blocks."""

    def __init__(self, records: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(records)
        self._dropped = 0
        self.addFilter(_worth_a_line)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record.trace_id, record.span_id = trace_id(), span_id()
        record.message = record.getMessage()
        if record.exc_info:
            record.exception = logging.Formatter().formatException(record.exc_info)
        record.msg, record.args, record.exc_info = record.message, None, None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._dropped:
            record.dropped_lines = self._dropped
        try:
            self.queue.put_nowait(record)
            self._dropped = 0
        except queue.Full:
            self._dropped += 1


def _worth_a_line(record: logging.LogRecord) -> bool:
    return record.name != _CONNECTIONS or record.levelno >= logging.CRITICAL or "blocked" in str(record.msg)


class _Formatter(logging.Formatter):
    def __init__(self, service: str, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._service, self._secrets = service, secrets

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets)

    def _extra(self, record: logging.LogRecord) -> dict[str, Any]:
        """Fields given as ``extra=``; those under a name that means a secret are masked by their text's pattern."""
        return {
            key: value if isinstance(value, int | float | bool | None) else self._redact(str(value))
            for key, value in vars(record).items()
            if key not in _STANDARD
        }


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        for name in ("trace_id", "span_id"):
            if value := getattr(record, name, ""):
                line[name] = value
        if exception := getattr(record, "exception", ""):
            line["exception"] = self._redact(exception)
        return orjson.dumps(line | self._extra(record), default=str).decode()


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = self._extra(record)
        if value := getattr(record, "trace_id", ""):
            fields["trace_id"] = value
        tail = "".join(f" {key}={_one_line(str(value))}" for key, value in fields.items())
        message = _one_line(self._redact(record.getMessage()))
        line = f"{_time(record)} {record.levelname:<7} {record.name} {message}{tail}"
        exception = getattr(record, "exception", "")
        return f"{line}\n{self._redact(exception)}" if exception else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    """Control characters escaped: what a webhook names must not forge a second line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
