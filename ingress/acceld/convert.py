"""The way in: ``POST /api/v1/conversions``."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

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
_CODES = {
    400: "ERR_ILLEGAL_PARAMETER",
    401: "ERR_UNAUTHORIZED",
    408: "ERR_ILLEGAL_PARAMETER",
    413: "ERR_ILLEGAL_PARAMETER",
}


def create_convert_router(intake: Intake, status: Status) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["acceld"])
    waiting = asyncio.Semaphore(SYNC_AT_ONCE)

    @router.post(
        "/conversions",
        summary="acceld: convert; with sync=true the answer comes when it is done",
        responses={400: {"description": "`{code, message}`"}, 401: {"description": "`{code, message}`"}},
    )
    async def convert(request: Request, sync: Annotated[str, Query()] = "") -> Response:
        try:
            accepted = await intake.take(request)
        except HttpProblem as problem:
            return _refusal(problem, request)
        if reason := _unwanted(accepted):
            return _error(400, "ERR_ILLEGAL_PARAMETER", f"nothing is converted: {reason}")
        if sync in _TRUE and accepted.requests:
            if waiting.locked():
                return _failed("too many synchronous calls; it is queued and will be converted")
            async with waiting:
                reason = await _outcome(status, {each.id for each in accepted.requests}, request)
            if reason:
                return _failed(reason)
        return JSONResponse("Ok")

    return router


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"code": code, "message": message}, status, headers)


def _failed(message: str, headers: dict[str, str] | None = None) -> Response:
    """500, of all failures: acceld's client takes 501 and above for success."""
    return _error(500, "ERR_CONVERT_FAILED", message, headers)


def _refusal(problem: HttpProblem, request: Request) -> Response:
    message = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
    if problem.status == 401 and "authorization" not in request.headers:
        message += (
            "; accelctl sends none: leave auth_header empty on an ingress that only it reaches, or let a proxy add it"
        )
    if problem.status in _CODES:
        return _error(problem.status, _CODES[problem.status], message, problem.headers)
    return _failed(message, problem.headers)


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
