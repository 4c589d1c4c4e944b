"""Cancelling conversions, one or all that match, for the API, the console and the command line alike: every consumer is told over
the broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from ingress.status.conversion import OPEN, Conversion, Status
from ingress.status.history import History
from shared.broker.api import Broker
from shared.broker.event_stream import CLOCK_SKEW
from shared.errors import IcsError, PermanentError
from shared.events import ConversionEvent, cancelling_all_event, cancelling_event
from shared.request_filter import RequestFilter, matcher

_BREATH = 2000
"""Conversions looked at between two chances for other requests."""
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
    await _show(broker, event)
    return conversion


def cancellable_filter(where: RequestFilter) -> RequestFilter | None:
    """``where`` for :func:`cancel_matching`; None if it asks for what has ended alone."""
    statuses = where.statuses.intersection(OPEN)
    if where.statuses and not statuses:
        return None
    return where.model_copy(update={"statuses": statuses})


async def matching(history: History, where: RequestFilter, accepted_until: datetime) -> list[Conversion]:
    """What :func:`cancel_matching` would end, as far as the history knows; newest first."""
    matches, until = matcher(where), accepted_until.timestamp()
    found: list[Conversion] = []
    for seen, conversion in enumerate(history.newest_first(), 1):
        if seen % _BREATH == 0:
            await asyncio.sleep(0)
        if conversion.settled or conversion.created > until:
            continue
        if (not where.statuses or conversion.status in where.statuses) and matches(conversion):
            found.append(conversion)
    return found


def by_status(conversions: Iterable[Conversion]) -> dict[Status, int]:
    counts = Counter(conversion.status for conversion in conversions)
    return {status: counts[status] for status in OPEN if counts[status]}


async def cancel_matching(broker: Broker, where: RequestFilter, accepted_until: datetime, actor: str) -> None:
    """One message for any number of conversions: every consumer asks each delivery that the broker had accepted until then.

    So nothing is forgotten that waits behind thousands, nor what the history does not know (its events were lost, or it is too
    short); and a push that comes later converts. ``accepted_until`` is not moved on for clocks that differ, as the time of
    :func:`cancel` is: that could cancel such a push. What was accepted later by another clock is left, and can be cancelled again.

    Raises:
        TransientError: ``broker_unavailable``; nothing is cancelled.
    """
    event = cancelling_all_event(where, accepted_until, actor)
    await broker.cancellations.publish(event)
    _log.info("all that match %s: cancelled by %s", where.model_dump_json(exclude_defaults=True), actor)
    await _show(broker, event)


async def note_cancelled(history: History, where: RequestFilter, accepted_until: datetime, actor: str) -> None:
    """Each of them is shown as one that somebody wants to end."""
    for conversion in await matching(history, where, accepted_until):
        conversion.ask_to_cancel(accepted_until.timestamp(), actor)


async def _show(broker: Broker, event: ConversionEvent) -> None:
    try:
        await broker.events.publish(event)
    except IcsError as error:
        _log.warning("the history does not show yet what %s cancelled: %s", event.data.actor, error.message)


def prospect(conversion: Conversion) -> str:
    """What becomes of it, in words."""
    if conversion.status == "converting":
        return "it stops within seconds, unless it is putting its tag already"
    return "it ends unconverted when its message comes to a consumer"
