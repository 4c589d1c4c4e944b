"""Drawings made on the server as plain SVG geometry: no script needed, no inline style for the content policy to refuse."""

from __future__ import annotations

from dataclasses import dataclass

from ingress.status.views import AttemptView, HourView, StageView

_WIDTH = 720.0
_HEIGHT = 180.0


@dataclass(frozen=True, slots=True)
class Bar:
    """Geometry in the SVG's own units."""

    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True, slots=True)
class HourColumn:
    label: str
    hour: HourView
    bars: list[Bar]
    centre: float


def hour_columns(hours: list[HourView]) -> tuple[list[HourColumn], int]:
    """Stacked columns (failed at the top) and the largest sum, for the axis."""
    largest = max((h.succeeded + h.skipped + h.failed for h in hours), default=0)
    slot = _WIDTH / max(1, len(hours))
    columns = []
    for index, hour in enumerate(hours):
        bars, bottom = [], _HEIGHT
        for kind, value in (("succeeded", hour.succeeded), ("skipped", hour.skipped), ("failed", hour.failed)):
            if value:
                height = max(2.0, value / largest * (_HEIGHT - 6))
                bottom -= height
                bars.append(
                    Bar(round(index * slot + 3, 2), round(bottom, 2), round(slot - 6, 2), round(height, 2), kind)
                )
        centre = round(index * slot + slot / 2, 2)
        columns.append(HourColumn(f"{hour.start:%H}:00", hour, bars, centre))
    return columns, largest


@dataclass(frozen=True, slots=True)
class WaterfallRow:
    """One stage; ``x`` and ``width`` in per cent of the attempt's whole time, the time in the queue included."""

    stage: StageView
    x: float
    width: float
    kind: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    rows: list[WaterfallRow]
    queue: float
    """Per cent of the whole that was waiting."""
    total_seconds: float
    ticks: list[tuple[float, float]]
    """(per cent, seconds since the attempt's start)."""


def waterfall(attempt: AttemptView) -> Waterfall | None:
    """None when no stage is known."""
    if not attempt.stages:
        return None
    ends = [s.start_seconds + s.duration_seconds for s in attempt.stages]
    work = max(attempt.duration_seconds or 0, 1e-3, *ends)
    # A long wait would leave the work no room: it gets at most a fifth of the width, and its figure in words.
    waited = attempt.queue_seconds or 0.0
    queue = min(waited, work / 4)
    total = work + queue
    rows = [
        WaterfallRow(
            stage=stage,
            x=round((queue + stage.start_seconds) / total * 100, 3),
            width=round(max(stage.duration_seconds / total * 100, 0.25), 3),
            kind=stage.name if stage.name in _KINDS else "other",
        )
        for stage in sorted(attempt.stages, key=lambda s: (s.start_seconds, s.name))
    ]
    ticks = [(round((queue + work * part / 4) / total * 100, 3), work * part / 4) for part in range(5)]
    return Waterfall(rows, round(queue / total * 100, 3), work, ticks)


_KINDS = frozenset({"resolve", "pull", "convert", "push", "manifest", "tag", "merge"})
