"""What acceld's clients ask (``accelctl task list`` and its probes): ``GET /api/v1/conversions`` and ``GET /api/v1/health``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel

from ingress.acceld.refusal import AcceldRoute, refusals, refuse
from ingress.status.conversion import Conversion
from ingress.status.service import Status
from shared.errors import IcsError

_GO_ZERO_TIME = "0001-01-01T00:00:00Z"
_STATUS: dict[str, Literal["COMPLETED", "FAILED"]] = {
    "succeeded": "COMPLETED",
    "skipped": "COMPLETED",
    "failed": "FAILED",
    "cancelled": "FAILED",
    "discarded": "FAILED",
    "lost": "FAILED",
}


class Task(BaseModel):
    id: str
    created: str
    finished: str
    """Go's zero time while it runs."""
    source: str
    source_size: int
    target_size: int
    status: Literal["PROCESSING", "COMPLETED", "FAILED"]
    reason: str


def create_task_router(status: Status) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["acceld"], route_class=AcceldRoute)

    @router.get(
        "/conversions",
        summary="acceld: tasks, newest first",
        dependencies=[Depends(status.access.read)],
        responses=refusals(401, 422),
    )
    async def tasks(limit: Annotated[int, Query(ge=1, le=10_000)] = 1000) -> list[Task]:
        return [_task(c) for c in status.history.newest_first()[:limit]]

    @router.get(
        "/health",
        summary="acceld: Ok while conversions can be taken",
        response_class=PlainTextResponse,
        responses=refusals(500),
    )
    async def health() -> Response:
        try:
            await status.broker.check_health()
        except IcsError as error:
            return refuse(500, "ERR_UNHEALTHY", error.message)
        return PlainTextResponse("Ok")

    return router


def reason_of(c: Conversion) -> str:
    """Why it failed, in words where there are any; or what became of it."""
    if c.status == "failed":
        return next((a.message for a in reversed(c.attempts) if a.message), c.code)
    if c.status == "lost":
        return "no end of it was told: convert it again"
    return c.reason or c.code


def _task(c: Conversion) -> Task:
    source = f"{c.ref}:{c.tag}" if c.tag else f"{c.ref}@{c.source_digest}"
    return Task(
        id=c.id,
        created=_rfc3339(c.created),
        finished=_rfc3339(c.finished) if c.finished else _GO_ZERO_TIME,
        source=source,
        source_size=c.source_size or 0,
        target_size=c.target_size or 0,
        status=_STATUS.get(c.status, "PROCESSING"),
        reason=reason_of(c) if _STATUS.get(c.status) == "FAILED" else c.reason,
    )


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
