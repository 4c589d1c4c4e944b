"""Cancelling a conversion, for the API, the console and the command line alike: every consumer is told over the broker."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from ingress.status.conversion import Conversion
from ingress.status.history import History
from shared.broker.api import Broker
from shared.broker.event_stream import CLOCK_SKEW
from shared.errors import IcsError, PermanentError
from shared.events import cancelling_event

_log = logging.getLogger(__name__)


class NotCancellableError(PermanentError):
    """There is nothing to cancel (code ``no_such_conversion``), or nothing any more (``conversion_ended``)."""

    @property
    def ended(self) -> bool:
        return self.code == "conversion_ended"


def cancellable(history: History, conversion_id: str) -> Conversion:
    """The conversion, if it has not ended.

    Raises:
        NotCancellableError
    """
    found = history.get(conversion_id)
    if found is None:
        raise NotCancellableError(f"there is no conversion {conversion_id} in the history", code="no_such_conversion")
    if found.settled:
        raise NotCancellableError(f"conversion {conversion_id} has ended: {found.status}", code="conversion_ended")
    return found


async def cancel(broker: Broker, history: History, conversion_id: str, actor: str) -> Conversion:
    """Returns once the broker keeps the cancellation; consumers act on it by themselves.

    Raises:
        NotCancellableError
        TransientError: ``broker_unavailable``; nothing is cancelled.
    """
    conversion = cancellable(history, conversion_id)
    now = datetime.now(UTC)
    # It is of what was published before it, by the clock of whoever published: ours may be behind that.
    told = datetime.fromtimestamp(history.last_event or 0, UTC)
    event = cancelling_event(conversion.id, max(now, min(told, now + CLOCK_SKEW)), actor)
    await broker.cancellations.publish(event)
    _log.info("conversion %s: cancelled by %s", conversion.id, actor)
    try:
        await broker.events.publish(event)
    except IcsError as error:
        _log.warning("the history does not show yet that %s is cancelled: %s", conversion.id, error.message)
    return conversion


def prospect(conversion: Conversion) -> str:
    """What becomes of it, in words."""
    if conversion.status == "converting":
        return "it stops within seconds, unless it is putting its tag already"
    return "it ends unconverted when its message comes to a consumer"
