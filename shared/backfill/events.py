"""A backfill as the event stream tells it, so that every ingress shows its progress and any of them can go on with it.

CloudEvents ``io.goharbor.ics.backfill.progress`` (from whoever walks) and ``...stop`` (from whoever wants it to end);
``subject`` is the backfill's id. Each progress event stands for itself: plan, state, and counts so far; only the finished
repositories and the sample of planned conversions are what came since the one before.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.events import ConversionEvent, EventData

BACKFILL = "io.goharbor.ics.backfill."
PROGRESS = f"{BACKFILL}progress"
STOP = f"{BACKFILL}stop"
State = Literal["running", "finished", "stopped", "failed"]


class BackfillPlan(BaseModel):
    """What to walk. Globs as in :mod:`fnmatch`; ``*`` crosses slashes; the rules' own apply too."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    registry: str = Field(min_length=1, max_length=255, description="host[:port] as the configuration's auths has it")
    project: str = Field(default="", max_length=255, description="one Harbor project; needs the harbor section")
    repositories: tuple[str, ...] = Field(default=("*",), min_length=1, max_length=100)
    tags: tuple[str, ...] = Field(default=("*",), min_length=1, max_length=100)
    limit: int | None = Field(default=None, ge=1, le=10_000_000, description="stop after so many conversions")
    rate: float = Field(
        default=0, ge=0, le=10_000, description="conversions a second; 0 is as fast as the broker confirms"
    )
    dry_run: bool = Field(default=False, description="only plan and count")


class PlannedConversion(BaseModel):
    model_config = ConfigDict(frozen=True)
    source: str
    target: str
    driver: str


class BackfillProgress(BaseModel):
    """One progress event's content."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    plan: BackfillPlan
    state: State
    error: str = ""
    repositories: int = 0
    tags: int = 0
    planned: int = 0
    published: int = 0
    resumed: int = 0
    skipped: dict[str, int] = Field(default_factory=dict)
    finished: tuple[str, ...] = ()
    sample: tuple[PlannedConversion, ...] = ()


def progress_event(backfill_id: str, progress: BackfillProgress, actor: str) -> ConversionEvent:
    data = EventData(progress=progress.model_dump(mode="json"), actor=actor)
    return ConversionEvent(type=PROGRESS, subject=backfill_id, data=data)


def stop_event(backfill_id: str, actor: str) -> ConversionEvent:
    return ConversionEvent(type=STOP, subject=backfill_id, data=EventData(actor=actor))
