"""Looks at the broker every few seconds, for the status API, the console and the metrics alike: nobody else asks it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ingress.status.history import History
from shared.broker.api import Broker, BrokerStats
from shared.errors import IcsError
from shared.messages import DeadLetter
from shared.telemetry.metrics import Metrics

_PERIOD = 5.0
_PATIENCE = 10.0
_RECOUNT = 60.0
"""Seconds after which dead letters are grouped again even though their number is the same."""
_REST = 20
"""How many times as long as it took the dead letters are then left alone: a broker hands out every one of them to be grouped,
and with tens of thousands that takes seconds of this process and of the broker."""
UNKNOWN = BrokerStats(ready=None, in_flight=None, retrying=None, dead=None, consumers=None)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """What the broker said last."""

    stats: BrokerStats = UNKNOWN
    checked_at: float = 0.0
    """UNIX time; 0 before the first look."""
    error: str = ""
    """Why it did not answer; empty while it does."""
    dead_by_code: dict[str, int] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        return self.checked_at > 0 and not self.error


class BrokerMonitor:
    """One task: ``await monitor.run()`` until cancelled; ``monitor.snapshot`` is what is known.

    What the broker cannot tell (RabbitMQ: how old the oldest message is, how many are in work) the history does. ``found`` is
    told of every dead letter, each time that they are grouped.
    """

    def __init__(
        self, broker: Broker, history: History, metrics: Metrics, found: Callable[[DeadLetter], object]
    ) -> None:
        self._broker, self._history, self._metrics, self._found = broker, history, metrics, found
        self._counted: tuple[int | None, float] = (None, 0.0)
        self._rests_until = 0.0
        self.snapshot = BrokerSnapshot()

    async def run(self) -> None:
        while True:
            await self.look(group=time.monotonic() >= self._rests_until)
            await asyncio.sleep(_PERIOD)

    async def look(self, *, group: bool = True) -> None:
        """Ask once, now; ``group`` the dead letters too, if need be. Never raises a broker's error: it becomes part of the
        snapshot.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                stats = self._completed(await self._broker.stats())
        except (IcsError, TimeoutError) as error:
            message = error.message if isinstance(error, IcsError) else f"no answer within {_PATIENCE:.0f} s"
            if not self.snapshot.error:
                _log.warning("broker: %s", message)
            self.snapshot = replace(self.snapshot, checked_at=time.time(), error=message)
            self._metrics.broker_up(False)
            self._show(UNKNOWN)
            return
        self.snapshot = replace(self.snapshot, checked_at=time.time(), error="")
        self._metrics.broker_up(True)
        stale = self._stale(stats)
        self._show(replace(stats, dead=_higher(stats.dead, self._counted[0])) if stale else stats)
        if stale and group and (dead := await self._group()) is not None:
            self._show(replace(stats, dead=dead))

    def _completed(self, stats: BrokerStats) -> BrokerStats:
        now = time.time()
        if stats.ready and stats.oldest_age_seconds is None:
            since = self._history.oldest_waiting(stats.ready)
            stats = replace(stats, oldest_age_seconds=None if since is None else max(0.0, now - since))
        if stats.in_flight is None:
            stats = replace(stats, in_flight=self._history.converting())
        return stats

    def _stale(self, stats: BrokerStats) -> bool:
        number, at = self._counted
        return stats.dead != number or time.monotonic() - at > _RECOUNT

    async def _group(self) -> int | None:
        """Group the dead letters by code; how many they are. What cannot be read now (None) is tried at the next look."""
        codes: Counter[str] = Counter()
        began = time.monotonic()
        try:
            async with asyncio.timeout(_RECOUNT):
                async for letter in self._broker.dead_letters.list():
                    codes[letter.failure.code] += 1
                    self._found(letter)
        except (IcsError, TimeoutError) as error:
            _log.warning("dead letters could not be counted: %s", error)
            return None
        finally:
            ended = time.monotonic()
            self._rests_until = ended + _REST * (ended - began)
        self._counted = (codes.total(), time.monotonic())
        self.snapshot = replace(self.snapshot, dead_by_code=dict(codes))
        self._metrics.dead_letters(codes)
        return codes.total()

    def _show(self, stats: BrokerStats) -> None:
        self.snapshot = replace(self.snapshot, stats=stats)
        states = {
            "ready": stats.ready,
            "in_flight": stats.in_flight,
            "retrying": stats.retrying,
            "dead": stats.dead,
        }
        self._metrics.queue(states, stats.consumers, stats.oldest_age_seconds)


def _higher(told: int | None, counted: int | None) -> int | None:
    """RabbitMQ does not tell of letters that another process looks at: fewer than there were may be as many."""
    return told if told is None or counted is None else max(told, counted)
