"""``/api/v1/status/...``: conversions, the queue and its consumers, and live updates as server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, Field

from ingress.filters import Asked
from ingress.problem import TO_ACT, WITH_BODY, HttpProblem, problems
from ingress.problem_api import DocumentRoute
from ingress.status.access import json_only
from ingress.status.cancelling import NotCancellableError, by_status, cancel, cancel_matching, matching, prospect
from ingress.status.conversion import OPEN, STATUSES, Open
from ingress.status.conversion import Status as ConversionStatus
from ingress.status.live import Update
from ingress.status.query import search
from ingress.status.service import Status
from ingress.status.views import ConsumerView, ConversionDetail, ConversionPage, Overview, QueueView
from shared.request_filter import RequestFilter

HEARTBEAT = 15.0
"""Seconds of silence after which a comment keeps proxies from closing the stream."""


class CancellationView(BaseModel):
    id: str
    status: ConversionStatus = Field(description="when it was cancelled")
    actor: str
    prospect: str = Field(description="what becomes of it, in words")


class ConversionsAsked(Asked):
    status: list[ConversionStatus] = Field(default=[], max_length=len(STATUSES), description="one or several")
    q: str = Field(
        default="", max_length=300, description="part of a reference, id, digest, trace id or dead letter's id"
    )
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str = Field(default="", max_length=100, description="next of the page before")

    def filter(self) -> RequestFilter:
        return RequestFilter(statuses=frozenset(self.status), **self.conditions())


class MatchingCancellation(Asked):
    """Which conversions, in the words of the list: one condition has to be given, or ``all`` set."""

    status: list[Open] = Field(default=[], max_length=len(OPEN))
    all: bool = False
    accepted_until: AwareDatetime | None = Field(
        default=None, description="of a dry run: what came after it is left; now, unless given"
    )
    dry_run: bool = False

    def filter(self) -> RequestFilter:
        where = RequestFilter(statuses=frozenset(self.status), **self.conditions())
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
    async def conversions(asked: Annotated[ConversionsAsked, Query()]) -> ConversionPage:
        try:
            page = await search(history, asked.filter(), limit=asked.limit, cursor=asked.cursor)
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
