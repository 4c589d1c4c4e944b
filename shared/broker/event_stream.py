"""Reading the event stream as events, whichever broker keeps it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime, timedelta

from shared.broker.passed_over import PassedOver
from shared.broker.wire import decode_events
from shared.events import ConversionEvent

CLOCK_SKEW = timedelta(minutes=5)
"""By which the clocks of who tells an event, who keeps it and who reads it may differ."""


class EventReading(ABC):
    """The reading half of :class:`shared.broker.api.EventStream`."""

    @abstractmethod
    def bodies(self, *, since: datetime | None = None, follow: bool = True) -> AsyncGenerator[bytes]: ...

    async def read(
        self, *, since: datetime | None = None, follow: bool = True, passed_over: PassedOver | None = None
    ) -> AsyncGenerator[ConversionEvent]:
        left_out = passed_over or PassedOver("event stream")
        async with aclosing(self.bodies(since=since, follow=follow)) as bodies:
            async for body in bodies:
                for event in decode_events(body, left_out):
                    if since is None or event.time >= since:
                        yield event
