"""What the event stream says about a backfill: progress that adds up, silence, stopping and resuming."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from ingress.backfill.record import SAMPLE, SILENCE, BackfillRecord, Backfills
from shared.backfill.events import (
    PROGRESS,
    BackfillPlan,
    BackfillProgress,
    PlannedConversion,
    State,
    progress_event,
    stop_event,
)
from shared.events import ConversionEvent, EventData

PLAN = BackfillPlan(registry="h.example.com")
START = datetime.now(UTC)


def at(event: ConversionEvent, seconds: float) -> ConversionEvent:
    return event.model_copy(update={"time": START + timedelta(seconds=seconds)})


def progress(seconds: float, state: State = "running", **facts: Any) -> ConversionEvent:
    return at(progress_event("one", BackfillProgress(plan=PLAN, state=state, **facts), "ann"), seconds)


def told(*events: ConversionEvent) -> BackfillRecord:
    backfills = Backfills()
    for each in events:
        backfills.apply(each)
    found = backfills.get("one")
    assert found is not None
    return found


def test_finished_repositories_and_the_sample_add_up_and_counts_are_the_newest() -> None:
    planned = tuple(PlannedConversion(source=str(n), target="t", driver="estargz") for n in range(SAMPLE))
    first = progress(0, finished=("a",), sample=planned[:3], planned=3)
    second = progress(1, finished=("b", "a"), sample=planned, planned=9)
    record = told(first, second, first)  # the stream promises at least once
    assert list(record.finished) == ["a", "b"]
    assert len(record.sample) == SAMPLE
    assert record.latest is not None
    assert record.latest.planned == 9
    assert (record.actor, record.state) == ("ann", "running")


def test_a_walk_that_nobody_tells_of_is_interrupted_and_blocks_no_other() -> None:
    record = told(progress(0))
    now = START.timestamp()
    assert record.seen_state(now + SILENCE / 2) == "running"
    assert record.seen_state(now + SILENCE + 1) == "interrupted"
    assert told(progress(0), progress(1, "finished")).seen_state(now + 3600) == "finished"


def test_a_stop_is_wanted_until_the_walk_is_taken_up_again() -> None:
    stop = at(stop_event("one", "bob"), 5)
    assert told(progress(0), stop).stop_wanted
    assert not told(progress(0), stop, progress(6, "stopped"), progress(9)).stop_wanted
    late = at(stop_event("one", "bob"), SILENCE + 60)
    record = told(progress(0), late)
    assert record.state == "stopped"  # its ingress is gone: nobody else would say so
    assert not told(progress(0), late, progress(SILENCE + 70)).stop_wanted


def test_what_is_not_about_a_backfill_or_cannot_be_read_changes_nothing() -> None:
    backfills = Backfills()
    unreadable = ConversionEvent(type=PROGRESS, subject="one", data=EventData(progress={"state": "dancing"}))
    with pytest.raises(ValidationError):
        backfills.apply(unreadable)
    assert backfills.apply(stop_event("unknown", "bob")) is None
    assert backfills.newest_first() == []


def test_only_the_newest_are_kept() -> None:
    backfills = Backfills()
    for number in range(60):
        event = progress_event(f"{number:02}", BackfillProgress(plan=PLAN, state="finished"), "ann")
        backfills.apply(at(event, number))
    assert [record.id for record in backfills.newest_first()] == [f"{number:02}" for number in range(59, 9, -1)]
