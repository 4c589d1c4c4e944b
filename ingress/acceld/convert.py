"""The way in: ``POST /api/v1/conversions``."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from ingress.acceld.refusal import AcceldRoute, failed, refusal_of, refusals, refuse
from ingress.acceld.tasks import reason_of
from ingress.intake import Accepted, Intake
from ingress.problem import HttpProblem
from ingress.status.service import Status
from ingress.webhooks.acceld import SENDER
from shared.planning import BY_ICS, CACHE, SIGNATURE

SYNC_LIMIT = 600.0
"""Seconds that a synchronous call waits at most; the conversion itself goes on."""
SYNC_AT_ONCE = 64
_POLL = 0.25
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
"""What Go takes for true; acceld takes all else for false."""
_NOTHING_TO_DO = frozenset({BY_ICS, CACHE, SIGNATURE})
_NO_HEADER = "accelctl sends none: leave auth_header empty on an ingress that only it reaches, or let a proxy add it"


def create_convert_router(intake: Intake, status: Status) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["acceld"], route_class=AcceldRoute)
    waiting = asyncio.Semaphore(SYNC_AT_ONCE)

    @router.post(
        "/conversions",
        summary="acceld: convert; with sync=true the answer comes when it is done",
        responses=refusals(400, 401, 408, 413, 422, 500),
    )
    async def convert(request: Request, sync: Annotated[str, Query()] = "") -> Response:
        try:
            accepted = await intake.take(request)
        except HttpProblem as problem:
            bare = problem.status_code == 401 and "authorization" not in request.headers
            return refusal_of(problem, _NO_HEADER if bare else "")
        if reason := _unwanted(accepted):
            return refuse(400, "ERR_ILLEGAL_PARAMETER", f"nothing is converted: {reason}")
        if sync in _TRUE and accepted.requests:
            if waiting.locked():
                return failed("too many synchronous calls; it is queued and will be converted")
            async with waiting:
                reason = await _outcome(status, {each.id for each in accepted.requests}, request)
            if reason:
                return failed(reason)
        return JSONResponse("Ok")

    return router


def _unwanted(accepted: Accepted) -> str:
    """Why what a person asked for by name comes to nothing; empty for events, of which most come to nothing."""
    if accepted.sender != SENDER or accepted.requests:
        return ""
    return next((skip.reason for skip in accepted.skipped if skip.reason not in _NOTHING_TO_DO), "")


async def _outcome(status: Status, ids: Collection[str], request: Request) -> str:
    """Why one of the conversions failed; empty when all ended well, or nobody waits any more."""
    try:
        async with asyncio.timeout(SYNC_LIMIT):
            while not await request.is_disconnected():
                found = [status.history.get(each) for each in ids]
                if all(conversion is not None and conversion.settled for conversion in found):
                    return next(
                        (
                            reason_of(c)
                            for c in found
                            if c is not None and c.status in {"failed", "cancelled", "discarded"}
                        ),
                        "",
                    )
                await asyncio.sleep(_POLL)
    except TimeoutError:
        return f"not finished within {SYNC_LIMIT:.0f} s; it goes on in the background"
    return ""
