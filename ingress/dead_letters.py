"""The dead-letter API: list, show, replay, discard, export, import. Reading and acting need different credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field, ValidationError

from ingress.filters import Asked
from ingress.inbound import read_body
from ingress.problem import TO_ACT, TO_READ, WITH_BODY, HttpProblem, problems
from ingress.problem_api import DocumentRoute
from ingress.status.access import json_only
from ingress.status.service import Status
from shared.broker.api import DeadLetterFilter
from shared.dead_letter_operations import Operation
from shared.messages import DeadLetter
from shared.time_limit import TimeLimit

PAGE = 100
IMPORT_LIMIT = 64 << 20
"""Bytes of one import."""
IMPORT_SECONDS = 60
"""Until all of them are here."""
_STILL_THERE = "It is still there; `detail` says why"


class LettersAsked(Asked):
    offset: int = Field(default=0, ge=0, le=10_000_000)
    limit: int = Field(default=PAGE, ge=1, le=1000)


class Selection(Asked):
    """Which letters; at least one condition has to be given, or ``all`` set."""

    ids: list[str] = Field(default_factory=list, max_length=10_000)
    all: bool = False
    limit: int | None = Field(default=None, ge=1, le=1_000_000)
    """The oldest so many: a canary."""
    rate: float = Field(default=0, ge=0, le=10_000)
    """Letters a second; 0 is as fast as the broker confirms."""
    dry_run: bool = False

    def filter(self) -> DeadLetterFilter:
        where = DeadLetterFilter(ids=frozenset(self.ids), **self.conditions())
        if where == DeadLetterFilter() and not self.all:
            raise HttpProblem(400, "no letters selected", "name conditions, or set all: true", code="nothing_selected")
        return where


def create_dead_letter_router(status: Status) -> APIRouter:
    operations = status.operations
    router = APIRouter(prefix="/api/v1/dead-letters", tags=["dead letters"], route_class=DocumentRoute)
    reader = [Depends(status.access.read)]
    operator = Depends(status.access.operate)

    @router.get("", summary="List, oldest first", dependencies=reader, responses=TO_READ)
    async def listing(asked: Annotated[LettersAsked, Query()]) -> Response:
        where, offset, limit = DeadLetterFilter(**asked.conditions()), asked.offset, asked.limit
        page: list[DeadLetter] = []
        total = 0
        async for letter in status.broker.dead_letters.list(where):
            if offset <= total < offset + limit:
                page.append(letter)
            total += 1
        return _json({"total": total, "offset": offset, "items": [letter.model_dump(mode="json") for letter in page]})

    @router.get(
        "/export",
        summary="All of a selection as JSON lines",
        dependencies=reader,
        response_class=StreamingResponse,
        responses=TO_READ | {200: {"content": {"application/jsonl": {}}}},
    )
    async def export(asked: Annotated[Asked, Query()]) -> StreamingResponse:
        # Found before the answer begins, which could not say any more that the broker is away.
        found = await operations.find(DeadLetterFilter(**asked.conditions()))

        async def lines() -> AsyncIterator[bytes]:
            for letter in found:
                yield letter.model_dump_json().encode() + b"\n"

        return StreamingResponse(lines(), media_type="application/jsonl")

    @router.post("/import", summary="Add exported letters (JSON lines)", responses=TO_ACT | problems(400, 408, 413))
    async def importing(request: Request, actor: str = operator) -> dict[str, Any]:
        body = await read_body(request, limit=IMPORT_LIMIT, within=TimeLimit(IMPORT_SECONDS))
        letters: list[DeadLetter] = []
        for number, line in enumerate(body.splitlines(), 1):
            if line.strip():
                try:
                    letters.append(DeadLetter.model_validate_json(line))
                except ValidationError as error:
                    what = f"line {number}: {error.errors()[0]['msg']}; nothing was imported"
                    raise HttpProblem(400, "a line is no dead letter", what, code="invalid_import") from None
        await operations.import_letters(letters)
        return {"imported": len(letters), "actor": actor}

    @router.get(
        "/{letter_id}",
        summary="The whole letter: request, every attempt, trace",
        dependencies=reader,
        responses=TO_READ | problems(404),
    )
    async def show(letter_id: str) -> Response:
        letter = await status.broker.dead_letters.get(letter_id)
        if letter is None:
            raise _gone()
        return Response(letter.model_dump_json(), media_type="application/json")

    async def act(operation: Operation, selection: Selection, actor: str) -> dict[str, Any]:
        where = selection.filter()
        letters = await operations.find(where, limit=selection.limit)
        if selection.dry_run:
            return {"would": operation, "count": len(letters), "ids": [letter.id for letter in letters[:1000]]}
        result = await operations.carry_out(operation, letters, actor=actor, rate=selection.rate)
        by_id = where == DeadLetterFilter(ids=where.ids) and selection.limit is None
        missing = len(where.ids) - len(letters) if by_id and where.ids else 0
        return {"done": result.done, "gone": result.gone + missing, "failed": result.failed, "errors": result.errors}

    async def act_on_one(operation: Operation, letter_id: str, actor: str) -> dict[str, Any]:
        result = await act(operation, Selection(ids=[letter_id]), actor)
        if result["done"]:
            return result
        if result["failed"]:
            raise HttpProblem(409, "the dead letter is still there", "; ".join(result["errors"]), code="not_done")
        raise _gone()

    @router.post(
        "/replay", summary="Replay a selection", dependencies=[Depends(json_only)], responses=TO_ACT | WITH_BODY
    )
    async def replay(selection: Selection, actor: str = operator) -> dict[str, Any]:
        return await act("replay", selection, actor)

    @router.post(
        "/discard", summary="Discard a selection", dependencies=[Depends(json_only)], responses=TO_ACT | WITH_BODY
    )
    async def discard(selection: Selection, actor: str = operator) -> dict[str, Any]:
        return await act("discard", selection, actor)

    @router.post(
        "/{letter_id}/replay",
        summary="Replay one",
        responses=TO_ACT | problems(404, s409=_STILL_THERE),
    )
    async def replay_one(letter_id: str, actor: str = operator) -> dict[str, Any]:
        return await act_on_one("replay", letter_id, actor)

    @router.delete("/{letter_id}", summary="Discard one", responses=TO_ACT | problems(404, s409=_STILL_THERE))
    async def discard_one(letter_id: str, actor: str = operator) -> dict[str, Any]:
        return await act_on_one("discard", letter_id, actor)

    return router


def _gone() -> HttpProblem:
    return HttpProblem(
        404,
        "there is no such dead letter",
        "it was replayed or discarded, or never was",
        code="no_such_dead_letter",
    )


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
