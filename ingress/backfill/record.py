"""The read model of backfills: what the event stream says about each, the same on every replica."""

from __future__ import annotations

import time as clock
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from shared.backfill.events import STOP, BackfillPlan, BackfillProgress, PlannedConversion, State
from shared.events import ConversionEvent

SILENCE = 30.0
"""Seconds without progress after which whoever walked is taken for gone; a walk tells at least every ten."""
SAMPLE = 50
_RECORDS = 50
_FINISHED = 200_000


@dataclass(slots=True)
class BackfillRecord:
    """Times are UNIX seconds."""

    id: str
    plan: BackfillPlan
    started: float
    taken_up: float
    """When it began or was resumed."""
    actor: str = ""
    state: State = "running"
    updated: float = 0
    latest: BackfillProgress | None = None
    finished: dict[str, None] = field(default_factory=dict)
    """Repositories that need no second walk, in order."""
    sample: list[PlannedConversion] = field(default_factory=list)
    stop_wanted: bool = False

    def seen_state(self, now: float | None = None) -> State | Literal["interrupted"]:
        """``interrupted``: it should be running, and nobody tells of it any more."""
        now = clock.time() if now is None else now
        if self.state == "running" and now - self.updated > SILENCE:
            return "interrupted"
        return self.state


class Backfills:
    """The newest ones, bounded."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, BackfillRecord] = OrderedDict()

    def get(self, backfill_id: str) -> BackfillRecord | None:
        return self._records.get(backfill_id)

    def newest_first(self) -> list[BackfillRecord]:
        return sorted(self._records.values(), key=lambda record: (record.started, record.id), reverse=True)

    def running(self) -> BackfillRecord | None:
        """One that is under way somewhere."""
        return next((each for each in self.newest_first() if each.seen_state() == "running"), None)

    def apply(self, event: ConversionEvent) -> BackfillRecord | None:
        """Take one event in; None when it is no news.

        Raises:
            ValidationError: this version cannot read it.
        """
        time = event.time.timestamp()
        record = self._records.get(event.subject)
        if event.type == STOP:
            if record is None or time < record.taken_up:
                return None
            record.stop_wanted = True
            if record.seen_state(time) == "interrupted":
                record.state = "stopped"  # nobody is there who could
            return record
        progress = BackfillProgress.model_validate(event.data.progress)
        if record is None:
            record = self._records[event.subject] = BackfillRecord(event.subject, progress.plan, time, time)
            if len(self._records) > _RECORDS:
                self._records.popitem(last=False)
        if time < record.updated:
            return None
        if record.state != "running" and progress.state == "running":
            record.stop_wanted, record.taken_up = False, time
        record.state, record.updated, record.latest = progress.state, time, progress
        record.actor = event.data.actor or record.actor
        for name in progress.finished[: _FINISHED - len(record.finished)]:
            record.finished[name] = None
        record.sample += progress.sample[: SAMPLE - len(record.sample)]
        return record
