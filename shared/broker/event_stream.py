"""Reading the event stream as events, whichever broker keeps it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime, timedelta

from pydantic import ValidationError

from shared.broker.wire import decode_events
from shared.events import ConversionEvent

CLOCK_SKEW = timedelta(minutes=5)
"""By which the clocks of who tells an event, who keeps it and who reads it may differ."""
_log = logging.getLogger(__name__)


class EventReading(ABC):
    """The reading half of :class:`shared.broker.api.EventStream`."""

    @abstractmethod
    def bodies(self, *, since: datetime | None = None, follow: bool = True) -> AsyncGenerator[bytes]: ...

    async def read(self, *, since: datetime | None = None, follow: bool = True) -> AsyncGenerator[ConversionEvent]:
        async with aclosing(self.bodies(since=since, follow=follow)) as bodies:
            async for body in bodies:
                try:
                    events = decode_events(body)
                except ValidationError as error:
                    log_unreadable(error)
                    continue
                for event in events:
                    if since is None or event.time >= since:
                        yield event


def log_unreadable(error: ValidationError) -> None:
    """One warning for a message that is left out; what it holds stays out of the log."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "body"
    _log.warning("an unreadable event is skipped: %s: %s", where[:200], first["msg"][:300])
