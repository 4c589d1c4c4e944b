"""What the templates show: numbers as people read them, everything escaped, charts that add up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ingress.console.charts import hour_columns, waterfall
from ingress.console.presentation import (
    ago,
    bytes_text,
    copyable,
    cut,
    duration_text,
    short_digest,
    size_change,
    status_pill,
)
from ingress.status.conversion import STATUSES
from ingress.status.views import AttemptView, HourView, StageView

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
EVIL = '"><script>alert(1)</script>'


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (195_400_000, "186 MiB"), (2**42, "4 TiB")],
)
def test_sizes(value: float | None, text: str) -> None:
    assert bytes_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "—"),
        (0.0123, "12 ms"),
        (3.44, "3.4 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (4320, "1 h 12 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


def test_times_say_how_long_ago_with_utc_on_hover() -> None:
    assert "5 min ago" in ago(NOW - timedelta(minutes=5), NOW)
    assert 'title="2026-11-23 12:01:00 UTC"' in ago(NOW + timedelta(minutes=1), NOW)
    assert "in 60 s" in ago(NOW + timedelta(minutes=1), NOW)
    assert ago(None) == "—"


def test_everything_shown_is_escaped() -> None:
    for shown in (copyable(EVIL), copyable("x", EVIL), status_pill(EVIL)):
        assert "<script" not in shown
        assert '"><' not in shown.replace('"><svg', "").replace('"><use', "").replace('"><code', "")


def test_sizes_compare() -> None:
    assert size_change(200, 100) == "200 B → 100 B (-50.0%)"
    assert size_change(0, 5) == "0 B → 5 B"
    assert size_change(None, 5) == "—"


def test_states_are_words_with_a_symbol_not_only_colours() -> None:
    words = {status_pill(status).striptags() for status in STATUSES}
    assert len(words) == len(STATUSES)
    assert all('href="#i-' in status_pill(status) for status in STATUSES)


def test_long_messages_are_cut() -> None:
    assert (len(cut("x" * 300)), cut("short")) == (200, "short")
    assert short_digest("sha256:" + "a" * 64) == "sha256:" + "a" * 12


def hour(index: int, **counts: int) -> HourView:
    values = {"succeeded": 0, "skipped": 0, "failed": 0, **counts}
    return HourView(start=NOW + timedelta(hours=index), **values)


def test_hours_stack_within_the_chart() -> None:
    columns, largest = hour_columns([hour(0), hour(1, succeeded=10, failed=2), hour(2, skipped=3)])
    assert largest == 12
    assert [len(column.bars) for column in columns] == [0, 2, 1]
    for column in columns:
        assert all(bar.y >= 0 and bar.y + bar.height <= 180.01 for bar in column.bars)
    assert hour_columns([hour(0)])[1] == 0


def attempt(stages: list[StageView], queue: float | None) -> AttemptView:
    return AttemptView(
        run=1,
        number=1,
        outcome="succeeded",
        consumer="a/1",
        started=NOW,
        duration_seconds=10.0,
        queue_seconds=queue,
        retry_in_seconds=None,
        code="",
        kind="",
        message="",
        details={},
        trace_id="",
        trace_url="",
        stages=stages,
    )


@pytest.mark.parametrize("queue", [None, 0.0, 1.0, 86_400.0])
def test_a_waterfall_stays_within_its_width_however_long_the_wait_was(queue: float | None) -> None:
    stages = [
        StageView(name="push", subject="", start_seconds=8, duration_seconds=2, bytes=1),
        StageView(name="pull", subject="", start_seconds=0, duration_seconds=0, bytes=1),
        StageView(name="dance", subject="", start_seconds=1, duration_seconds=3, bytes=1),
    ]
    drawn = waterfall(attempt(stages, queue))
    assert drawn is not None
    assert [row.stage.name for row in drawn.rows] == ["pull", "dance", "push"]
    assert [row.kind for row in drawn.rows] == ["pull", "other", "push"]
    assert drawn.queue <= 20
    assert all(row.width >= 0.25 and row.x + row.width <= 100.3 for row in drawn.rows)
    assert waterfall(attempt([], queue)) is None
