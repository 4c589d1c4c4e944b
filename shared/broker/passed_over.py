"""What a reader of an event stream leaves out: counted one by one, and said once in a while."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Literal

from pydantic import ValidationError

Reason = Literal["unreadable", "unknown_type"]
PERIOD = 60.0
"""Seconds between two log lines for one reason: a newer version may write an event a second that this one does not know."""
_log = logging.getLogger(__name__)


class PassedOver:
    """Args:
    stream: its name in the log.
    count: told of each event, for a metric.
    """

    def __init__(self, stream: str, count: Callable[[Reason], None] = lambda _reason: None) -> None:
        self._stream = stream
        self._count = count
        self._unsaid: Counter[Reason] = Counter()
        self._due: dict[Reason, float] = {}

    def unreadable(self, error: Exception) -> None:
        """What the event holds stays out of the log."""
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            self._note("unreadable", f"{where[:200]}: {first['msg'][:300]}")
        else:
            self._note("unreadable", type(error).__name__)

    def unknown(self, event_type: str) -> None:
        self._note("unknown_type", f"type {event_type[:200]!r}, which this version does not know")

    def _note(self, reason: Reason, what: str) -> None:
        self._count(reason)
        self._unsaid[reason] += 1
        now = monotonic()
        if now >= self._due.get(reason, now):
            self._due[reason] = now + PERIOD
            count = self._unsaid.pop(reason)
            _log.warning("%s: %d passed over, the newest: %s", self._stream, count, what)
