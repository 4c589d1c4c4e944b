"""``/api/v1/status/...``: conversions, the queue and its consumers, and live updates as server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ingress.problem import TO_ACT, WITH_BODY, HttpProblem, problems
from ingress.problem_api import DocumentRoute
from ingress.status.access import json_only
from ingress.status.cancelling import NotCancellableError, by_status, cancel, cancel_matching, matching, prospect
from ingress.status.conversion import OPEN, Open
from ingress.status.conversion import Status as ConversionStatus
from ingress.status.live import Update
from ingress.status.query import ConversionFilter, search
from ingress.status.service import Status
from ingress.status.views import ConsumerView, ConversionDetail, ConversionPage, Overview, QueueView
from shared.messages import Priority
from shared.request_filter import RequestFilter

HEARTBEAT = 15.0
"""Seconds of silence after which a comment keeps proxies from closing the stream."""


class CancellationView(BaseModel):
    id: str
    status: ConversionStatus = Field(description="when it was cancelled")
    actor: str
    prospect: str = Field(description="what becomes of it, in words")


class MatchingCancellation(BaseModel):
    """Which conversions, in the words of the list: all conditions must hold, and one has to be given, or ``all`` set."""

    model_config = ConfigDict(extra="forbid")
    status: list[Open] = Field(default=[], max_length=len(OPEN))
    repository: str = Field(default="", max_length=300, description="glob over registry/repository or repository")
    tag: str = Field(default="", max_length=150, description="glob")
    driver: str = Field(default="", max_length=50)
    priority: Priority | Literal[""] = ""
    since: AwareDatetime | None = Field(default=None, description="requested at or after")
    until: AwareDatetime | None = Field(default=None, description="requested at or before")
    all: bool = False
    accepted_until: AwareDatetime | None = Field(
        default=None, description="of a dry run: what came after it is left; now, unless given"
    )
    dry_run: bool = False

    def filter(self) -> RequestFilter:
        where = RequestFilter(
            statuses=frozenset(self.status),
            repository=self.repository.strip(),
            tag=self.tag.strip(),
            driver=self.driver.strip(),
            priority=self.priority,
            since=self.since.timestamp() if self.since else None,
            until=self.until.timestamp() if self.until else None,
        )
        if where == RequestFilter() and not self.all:
            raise HttpProblem(
                400, "no conversions selected", "name conditions, or set all: true", code="nothing_selected"
            )
        return where


class MatchingCancellationView(BaseModel):
    dry_run: bool = Field(description="nothing is cancelled")
    count: int = Field(
        description="of the history; what matches and it does not know ends too. 0: nothing is cancelled"
    )
    by_status: dict[str, int]
    ids: list[str] = Field(description="the newest thousand of them")
    accepted_until: datetime = Field(description="what the broker accepted later converts")
    actor: str


def create_status_router(status: Status, *, heartbeat: float = HEARTBEAT) -> APIRouter:
    """Everything is behind ``console.credential``."""
    router = APIRouter(
        prefix="/api/v1/status",
        tags=["status"],
        dependencies=[Depends(status.access.read)],
        responses=problems(401),
        route_class=DocumentRoute,
    )
    views, history = status.views, status.history
    operator = Depends(status.access.operate)

    @router.get("", summary="Counts, queue, consumers, registries, the last 24 hours")
    async def overview() -> Overview:
        return views.overview(time.time())

    @router.get("/queue", summary="The broker's queues")
    async def queue() -> QueueView:
        return views.queue()

    @router.get("/consumers", summary="Consumers that events have told of, last seen first")
    async def consumers() -> list[ConsumerView]:
        return views.consumers()

    @router.get(
        "/conversions",
        summary="List and search conversions, newest first",
        responses=problems(s400="`cursor` is none of ours"),
    )
    async def conversions(
        where: Annotated[ConversionFilter, Depends(conversion_filter)],
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Annotated[str, Query(max_length=100, description="next of the page before")] = "",
    ) -> ConversionPage:
        try:
            page = await search(history, where, limit=limit, cursor=cursor)
        except ValueError:
            raise HttpProblem(
                400, "not a cursor of ours", "take `next` of the page before", code="invalid_cursor"
            ) from None
        return ConversionPage(
            items=[views.summary(c) for c in page.items],
            next=page.cursor,
            as_of=views.as_of(),
            rebuilding=status.follower.rebuilding,
        )

    @router.get(
        "/conversions/{conversion_id}",
        summary="One conversion with attempts and stages",
        responses=problems(s404="Not known, or older than the history"),
    )
    async def conversion(conversion_id: str) -> ConversionDetail:
        found = history.get(conversion_id)
        if found is None:
            raise HttpProblem(
                404,
                "there is no such conversion",
                "it is older than the history, or never was",
                code="no_such_conversion",
            )
        return views.detail(found)

    @router.post(
        "/conversions/{conversion_id}/cancel",
        summary="Cancel one that has not ended",
        status_code=202,
        responses=TO_ACT | problems(404, s409="It has ended"),
    )
    async def cancel_one(conversion_id: str, actor: str = operator) -> CancellationView:
        try:
            found = await cancel(status.broker, history, conversion_id, actor)
        except NotCancellableError as error:
            if not error.ended and status.follower.rebuilding:
                raise _rebuilding() from None
            title = "it has ended" if error.ended else "there is no such conversion"
            raise HttpProblem(409 if error.ended else 404, title, error.message, code=error.code) from None
        return CancellationView(id=found.id, status=found.status, actor=actor, prospect=prospect(found))

    @router.post(
        "/conversions/cancel",
        summary="Cancel all that match and have not ended; one message, however many",
        status_code=202,
        dependencies=[Depends(json_only)],
        responses=TO_ACT | WITH_BODY | {200: {"model": MatchingCancellationView, "description": "A dry run"}},
    )
    async def cancel_all(
        which: MatchingCancellation, response: Response, actor: str = operator
    ) -> MatchingCancellationView:
        now = datetime.now(UTC)
        where, until = which.filter(), min(which.accepted_until or now, now)
        if status.follower.rebuilding:
            raise _rebuilding()
        found = await matching(history, where, until)
        if which.dry_run:
            response.status_code = 200
        elif found:
            await cancel_matching(status.broker, where, until, actor)
        return MatchingCancellationView(
            dry_run=which.dry_run,
            count=len(found),
            by_status={**by_status(found)},
            ids=[each.id for each in found[:1000]],
            accepted_until=until,
            actor=actor,
        )

    @router.get(
        "/events",
        summary="Live updates (server-sent events)",
        response_class=StreamingResponse,
        responses=problems(s503="Too many live connections")
        | {
            200: {
                "content": {"text/event-stream": {}},
                "description": "`conversion`: a summary, whenever it changes; `reset`: load lists again; comments keep it open",
            },
        },
    )
    async def events(
        request: Request,
        last_event_id: Annotated[str, Header(max_length=200)] = "",
        conversion: Annotated[str, Query(max_length=100, description="updates of this one only")] = "",
    ) -> StreamingResponse:
        if status.live.full:
            raise HttpProblem(
                503,
                "too many live connections",
                "try again later",
                code="too_many_streams",
                headers={"Retry-After": "10"},
            )

        async def stream() -> AsyncIterator[bytes]:
            with status.live.subscribe(last_event_id) as client:
                yield b"retry: 3000\n\n"
                async for batch in status.live.updates(client, heartbeat):
                    if await request.is_disconnected():
                        return
                    frames = b"".join(_frame(status, update, conversion) for update in batch)
                    yield frames or b":\n\n"

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    return router


def _rebuilding() -> HttpProblem:
    return HttpProblem(
        503,
        "the history is still being read",
        "ask again in a few seconds",
        code="rebuilding",
        headers={"Retry-After": "5"},
    )


def conversion_filter(
    *,
    status: Annotated[list[ConversionStatus] | None, Query(description="one or several")] = None,
    repository: Annotated[str, Query(max_length=300, description="glob over registry/repository or repository")] = "",
    tag: Annotated[str, Query(max_length=150, description="glob")] = "",
    driver: Annotated[str, Query(max_length=50)] = "",
    priority: Annotated[str, Query(max_length=50, description="`live` or `backfill`")] = "",
    code: Annotated[str, Query(max_length=100, description="error code")] = "",
    q: Annotated[str, Query(max_length=300, description="part of a reference, id, digest or trace id")] = "",
    since: Annotated[datetime | None, Query(description="requested at or after")] = None,
    until: Annotated[datetime | None, Query(description="requested at or before")] = None,
) -> ConversionFilter:
    return ConversionFilter(
        statuses=frozenset(status or ()),
        repository=repository.strip(),
        tag=tag.strip(),
        driver=driver.strip(),
        priority=priority.strip(),
        code=code.strip(),
        text=q,
        since=since.timestamp() if since else None,
        until=until.timestamp() if until else None,
    )


def _frame(status: Status, update: Update, only: str) -> bytes:
    """One server-sent event; empty when it is not for this client, or its conversion is forgotten."""
    if update.conversion is None:
        return b"event: reset\ndata: {}\n\n"
    found = status.history.get(update.conversion)
    if found is None or (only and update.conversion != only):
        return b""
    data = orjson.dumps(status.views.summary(found).model_dump(mode="json"))
    event_id = "".join(c for c in update.event_id if c.isprintable())[:200]
    return f"id: {event_id}\nevent: conversion\ndata: ".encode() + data + b"\n\n"
