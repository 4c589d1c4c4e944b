"""``/api/v1/backfills``: plan, start, follow, stop and resume walks over what a registry holds already."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from ingress.backfill.record import BackfillRecord, Backfills
from ingress.backfill.runner import BackfillRunner
from ingress.problem import TO_ACT, TO_READ, WITH_BODY, HttpProblem, problems
from ingress.problem_api import DocumentRoute
from ingress.status.access import Access, json_only
from shared.backfill.events import BackfillPlan, PlannedConversion
from shared.errors import PermanentError


class BackfillView(BaseModel):
    """One walk."""

    id: str
    state: Literal["running", "finished", "stopped", "failed", "interrupted"] = Field(
        description="interrupted: its ingress is gone; resume it"
    )
    error: str
    actor: str
    started: datetime
    updated: datetime
    plan: BackfillPlan
    repositories: int = Field(description="walked")
    tags: int
    planned: int = Field(description="conversions that the rules make of them")
    published: int = Field(description="enqueued, confirmed by the broker; 0 in a dry run")
    resumed: int = Field(description="repositories that were finished before")
    skipped: dict[str, int] = Field(description="reason → tags")
    sample: list[PlannedConversion] = Field(description="the first that were planned")

    @classmethod
    def of(cls, record: BackfillRecord) -> BackfillView:
        latest = record.latest
        assert latest is not None  # noqa: S101  a record begins with a progress
        return cls(
            id=record.id,
            state=record.seen_state(),
            error=latest.error,
            actor=record.actor,
            started=datetime.fromtimestamp(record.started, UTC),
            updated=datetime.fromtimestamp(record.updated, UTC),
            plan=record.plan,
            repositories=latest.repositories,
            tags=latest.tags,
            planned=latest.planned,
            published=latest.published,
            resumed=latest.resumed,
            skipped=latest.skipped,
            sample=record.sample,
        )


_BUSY = "Another one is under way"
_CODES = {"already_running": 409, "not_allowed": 422}


def refused(error: PermanentError) -> HttpProblem:
    return HttpProblem(_CODES[error.code], "this backfill cannot be started", error.message, code=error.code)


def create_backfill_router(access: Access, backfills: Backfills, runner: BackfillRunner) -> APIRouter:
    """Reading is behind ``console.credential``, everything else behind ``console.operator_credential``."""
    router = APIRouter(
        prefix="/api/v1/backfills",
        tags=["backfill"],
        route_class=DocumentRoute,
    )
    reader = [Depends(access.read)]
    operator = Depends(access.operate)

    def known(backfill_id: str) -> BackfillRecord:
        record = backfills.get(backfill_id)
        if record is None:
            raise HttpProblem(
                404,
                "there is no such backfill",
                "it is older than the event history, or never was",
                code="no_such_backfill",
            )
        return record

    @router.get("", summary="The newest fifty, newest first", dependencies=reader, responses=TO_READ)
    async def listing() -> list[BackfillView]:
        return [BackfillView.of(record) for record in backfills.newest_first()]

    @router.get(
        "/{backfill_id}", summary="One, with its progress", dependencies=reader, responses=TO_READ | problems(404)
    )
    async def one(backfill_id: str) -> BackfillView:
        return BackfillView.of(known(backfill_id))

    @router.post(
        "",
        status_code=202,
        summary="Walk a registry; dry_run only plans",
        dependencies=[Depends(json_only)],
        responses=TO_ACT
        | WITH_BODY
        | problems(
            s409=_BUSY, s422="Not an allowed registry, or the body is unsound: `errors` says what is wrong where"
        ),
    )
    async def start(plan: BackfillPlan, actor: str = operator) -> BackfillView:
        try:
            return BackfillView.of(runner.start(plan, actor))
        except PermanentError as error:
            raise refused(error) from None

    @router.post(
        "/{backfill_id}/resume",
        status_code=202,
        summary="Go on where it ended",
        responses=TO_ACT | problems(404, s409=_BUSY),
    )
    async def resume(backfill_id: str, actor: str = operator) -> BackfillView:
        try:
            return BackfillView.of(runner.resume(known(backfill_id), actor))
        except PermanentError as error:
            raise refused(error) from None

    @router.post(
        "/{backfill_id}/stop", status_code=202, summary="End it; it can be resumed", responses=TO_ACT | problems(404)
    )
    async def stop(backfill_id: str, actor: str = operator) -> BackfillView:
        record = known(backfill_id)
        runner.stop(record, actor)
        return BackfillView.of(record)

    return router
