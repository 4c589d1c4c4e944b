"""The read model: what the event stream says about every conversion, rebuilt by each replica at its start.

Bounded twice: ``capacity`` conversions, and ``max_age`` seconds (the stream's own). The oldest go first. One event loop only.
"""

from __future__ import annotations

import time as clock
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ingress.status.burial import untold_end
from ingress.status.conversion import Conversion, Status
from ingress.status.stored_event import StoredEvent, StoredRequest
from shared.events import TYPE_PREFIX
from shared.messages import DeadLetter

_HOUR = 3600
_CONSUMERS = 1000
_REGISTRIES = 200


@dataclass(slots=True)
class ConsumerRecord:
    """A consumer as its events show it."""

    name: str
    last_seen: float
    running: set[str] = field(default_factory=set)
    succeeded: int = 0
    failed_attempts: int = 0


@dataclass(slots=True)
class RegistryRecord:
    """The last outcomes of a source registry; times are UNIX seconds."""

    name: str
    last_success: float | None = None
    last_failure: float | None = None
    last_code: str = ""


class History:
    """Args:
    capacity: conversions kept at most.
    max_age: seconds that a conversion is kept after it was requested.
    """

    def __init__(self, capacity: int = 100_000, max_age: float = 7 * 86400) -> None:
        self._capacity, self._max_age = capacity, max_age
        self._by_id: dict[str, Conversion] = {}
        self._ordered: list[Conversion] = []
        self._progress: dict[str, OrderedDict[str, tuple[int, int]]] = {}
        self._waiting: dict[str, float] = {}
        """Id → since when it is queued, in the order in which they came."""
        self._running: dict[str, float] = {}
        """Id → start of the attempt that is under way."""
        self.counts: Counter[Status] = Counter()
        self.consumers: OrderedDict[str, ConsumerRecord] = OrderedDict()
        self.registries: OrderedDict[str, RegistryRecord] = OrderedDict()
        self.hours: dict[int, Counter[str]] = {}
        """UNIX hour → how many conversions ended with each outcome in it."""
        self.last_event: float | None = None
        """UNIX time of the newest event: how old this replica's knowledge is."""

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, conversion_id: str) -> Conversion | None:
        return self._by_id.get(conversion_id)

    def newest_first(self) -> list[Conversion]:
        """A snapshot by request time, ids breaking ties: the same order on every replica."""
        return self._ordered[::-1]

    def progress(self, conversion_id: str) -> tuple[int, int]:
        """Source bytes done and in all, over the layers heard of; (0, 0) when nothing is known."""
        layers = self._progress.get(conversion_id)
        if layers is None:
            return (0, 0)
        return sum(done for done, _ in layers.values()), sum(total for _, total in layers.values())

    def oldest_waiting(self, ready: int) -> float | None:
        """UNIX time since when the oldest of ``ready`` queued conversions waits; None when none is known.

        The queue is first in, first out: when events were lost and more conversions look queued than the broker holds, those that
        came last are the ones that wait.
        """
        return min(islice(reversed(self._waiting.values()), ready), default=None)

    def converting(self) -> int:
        """Conversions under way."""
        return len(self._running)

    def by_status(self, *statuses: Status) -> Iterable[Conversion]:
        """Newest first."""
        return (conversion for conversion in reversed(self._ordered) if conversion.status in statuses)

    def apply(self, event: StoredEvent) -> Conversion | None:
        """Take one event in; the conversion that it changed, or None."""
        time, kind, data = event["time"].timestamp(), event["type"].removeprefix(TYPE_PREFIX), event["data"]
        if self.last_event is None or time > self.last_event:
            self.last_event = time
        conversion = self._by_id.get(event["subject"])
        if kind == "progress":
            return conversion if conversion is not None and self._move(conversion, data.get("progress")) else None
        if conversion is None:
            request = data.get("request")
            if request is None or clock.time() - time > self._max_age:
                return None
            conversion = self._add(request, time)
        before, consumer = conversion.status, conversion.consumer
        if not conversion.apply(event, kind, time):
            return None
        self._note_status(conversion, before, time)
        if name := data.get("consumer"):
            self._note_consumer(name, conversion.id, kind, time, consumer)
        if conversion.settled:
            self._progress.pop(conversion.id, None)
            self._note_outcome(conversion, kind, time)
        return conversion

    def lose_sight(self, since: float) -> list[Conversion]:
        """Conversions that were started before ``since`` and of which no end was told count as running no more; call now and
        then. They are returned.
        """
        lost = [self._by_id[each] for each, started in self._running.items() if started < since]
        for conversion in lost:
            before = conversion.status
            conversion.lose_sight()
            self._note_status(conversion, before, 0)
            self._under_way_no_more(conversion)
        return lost

    def bury(self, letter: DeadLetter) -> Conversion | None:
        """The conversion that ``letter`` ends, if no event has told so."""
        conversion = self._by_id.get(letter.request.id) if letter.request is not None else None
        if conversion is None or (event := untold_end(conversion, letter)) is None:
            return None
        before, died_at = conversion.status, letter.died_at.timestamp()
        conversion.apply(event, "failed", died_at)
        self._note_status(conversion, before, died_at)
        self._note_outcome(conversion, "failed", died_at)
        self._under_way_no_more(conversion)
        return conversion

    def expire(self) -> None:
        """Forget what is older than ``max_age``; call now and then."""
        oldest = clock.time() - self._max_age
        count = 0
        while count < len(self._ordered) and self._ordered[count].created < oldest:
            count += 1
        self._drop(count)
        hour = int(oldest // _HOUR)
        for key in [key for key in self.hours if key < hour]:
            del self.hours[key]

    def _add(self, request: StoredRequest, time: float) -> Conversion:
        conversion = Conversion(request, time)
        self._by_id[conversion.id] = conversion
        if not self._ordered or _order(self._ordered[-1]) < _order(conversion):
            self._ordered.append(conversion)
        else:
            insort(self._ordered, conversion, key=_order)
        self.counts[conversion.status] += 1
        self._shrink()
        return conversion

    def _note_status(self, conversion: Conversion, before: Status, time: float) -> None:
        now = conversion.status
        if now == "queued":
            self._waiting.setdefault(conversion.id, time)
            if before == "queued":
                return
        else:
            self._waiting.pop(conversion.id, None)
        self.counts[before] -= 1
        self.counts[now] += 1
        if now == "converting" and conversion.started is not None:
            self._running[conversion.id] = conversion.started
        else:
            self._running.pop(conversion.id, None)

    def _shrink(self) -> None:
        if len(self._ordered) > self._capacity:
            self._drop(max(1, self._capacity // 100))

    def _drop(self, count: int) -> None:
        for conversion in self._ordered[:count]:
            del self._by_id[conversion.id]
            self._waiting.pop(conversion.id, None)
            self._running.pop(conversion.id, None)
            self.counts[conversion.status] -= 1
            self._under_way_no_more(conversion)
        del self._ordered[:count]

    def _under_way_no_more(self, conversion: Conversion) -> None:
        self._progress.pop(conversion.id, None)
        if consumer := self.consumers.get(conversion.consumer):
            consumer.running.discard(conversion.id)

    def _move(self, conversion: Conversion, progress: dict[str, Any] | None) -> bool:
        if conversion.status != "converting" or not progress:
            return False
        layer, done, total = progress.get("layer"), progress.get("done"), progress.get("total")
        if not (isinstance(layer, str) and isinstance(done, int) and isinstance(total, int)):
            return False
        layers = self._progress.setdefault(conversion.id, OrderedDict())
        layers[layer] = (done, total)
        if len(layers) > 512:
            layers.popitem(last=False)
        return True

    def _note_consumer(self, name: str, conversion_id: str, kind: str, time: float, before: str) -> None:
        """``before``: the conversion's consumer until this event."""
        record = self.consumers.get(name)
        if record is None:
            record = self.consumers[name] = ConsumerRecord(name, time)
            if len(self.consumers) > _CONSUMERS:
                self.consumers.popitem(last=False)
        record.last_seen = max(record.last_seen, time)
        self.consumers.move_to_end(name)
        if kind in ("started", "cancelled") and (previous := self.consumers.get(before)):
            previous.running.discard(conversion_id)
        if kind == "started":
            self._progress.pop(conversion_id, None)
            record.running.add(conversion_id)
            return
        record.running.discard(conversion_id)
        record.succeeded += kind == "succeeded"
        record.failed_attempts += kind in ("failed", "retrying")

    def _note_outcome(self, conversion: Conversion, kind: str, time: float) -> None:
        if kind not in ("succeeded", "skipped", "failed"):
            return
        hour = int(time // _HOUR)
        if (ended := self.hours.get(hour)) is None:
            ended = self.hours[hour] = Counter()
        ended[kind] += 1
        name = conversion.ref.partition("/")[0]
        if (record := self.registries.get(name)) is None:
            record = self.registries[name] = RegistryRecord(name)
        if kind == "failed":
            record.last_failure, record.last_code = time, conversion.code
        else:
            record.last_success = time
        self.registries.move_to_end(name)
        if len(self.registries) > _REGISTRIES:
            self.registries.popitem(last=False)


def _order(conversion: Conversion) -> tuple[float, str]:
    return (conversion.created, conversion.id)
