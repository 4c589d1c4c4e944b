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

from ingress.status.conversion import SETTLED, Conversion, Status
from shared.events import ConversionEvent

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
    failed: int = 0


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

    def converting(self, since: float) -> int:
        """Conversions under way that were started after ``since``: an older one's end was never told."""
        running = (self._by_id.get(each) for record in self.consumers.values() for each in record.running)
        return sum(found is not None and found.started is not None and found.started >= since for found in running)

    def by_status(self, *statuses: Status) -> Iterable[Conversion]:
        """Newest first."""
        return (conversion for conversion in reversed(self._ordered) if conversion.status in statuses)

    def apply(self, event: ConversionEvent) -> Conversion | None:
        """Take one event in; the conversion that it changed, or None."""
        time = event.time.timestamp()
        self.last_event = max(self.last_event or time, time)
        conversion = self._by_id.get(event.subject)
        if event.kind == "progress":
            return conversion if conversion is not None and self._move(conversion, event) else None
        if conversion is None:
            if event.data.request is None or clock.time() - time > self._max_age:
                return None
            conversion = Conversion(event.data.request, time)
            self._by_id[conversion.id] = conversion
            insort(self._ordered, conversion, key=_order)
            self.counts[conversion.status] += 1
            self._shrink()
        before, consumer = conversion.status, conversion.consumer
        if not conversion.apply(event):
            return None
        self.counts[before] -= 1
        self.counts[conversion.status] += 1
        if conversion.status != "queued":
            self._waiting.pop(conversion.id, None)
        elif conversion.id not in self._waiting:
            self._waiting[conversion.id] = time
        self._note_consumer(conversion, event, time, consumer)
        if conversion.settled:
            self._progress.pop(conversion.id, None)
            self._note_outcome(conversion, event, time)
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

    def _shrink(self) -> None:
        if len(self._ordered) > self._capacity:
            self._drop(max(1, self._capacity // 100))

    def _drop(self, count: int) -> None:
        for conversion in self._ordered[:count]:
            del self._by_id[conversion.id]
            self._progress.pop(conversion.id, None)
            self._waiting.pop(conversion.id, None)
            self.counts[conversion.status] -= 1
            if consumer := self.consumers.get(conversion.consumer):
                consumer.running.discard(conversion.id)
        del self._ordered[:count]

    def _move(self, conversion: Conversion, event: ConversionEvent) -> bool:
        progress = event.data.progress
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

    def _note_consumer(self, conversion: Conversion, event: ConversionEvent, time: float, before: str) -> None:
        name = event.data.consumer
        if not name:
            return
        record = self.consumers.get(name)
        if record is None:
            record = self.consumers[name] = ConsumerRecord(name, time)
            if len(self.consumers) > _CONSUMERS:
                self.consumers.popitem(last=False)
        record.last_seen = max(record.last_seen, time)
        self.consumers.move_to_end(name)
        if event.kind == "started":
            if previous := self.consumers.get(before):
                previous.running.discard(conversion.id)
            self._progress.pop(conversion.id, None)
            record.running.add(conversion.id)
            return
        record.running.discard(conversion.id)
        record.succeeded += event.kind == "succeeded"
        record.failed += event.kind in ("failed", "retrying")

    def _note_outcome(self, conversion: Conversion, event: ConversionEvent, time: float) -> None:
        if event.kind not in SETTLED or event.kind == "discarded":
            return
        self.hours.setdefault(int(time // _HOUR), Counter())[event.kind] += 1
        name = conversion.ref.partition("/")[0]
        record = self.registries.setdefault(name, RegistryRecord(name))
        if event.kind == "failed":
            record.last_failure, record.last_code = time, conversion.code
        else:
            record.last_success = time
        self.registries.move_to_end(name)
        if len(self.registries) > _REGISTRIES:
            self.registries.popitem(last=False)


def _order(conversion: Conversion) -> tuple[float, str]:
    return (conversion.created, conversion.id)
