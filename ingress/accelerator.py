"""acceld's way in: ``POST /api/v1/conversions`` with its answers, for clients that were made for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from ingress.intake import Intake
from ingress.problem import HttpProblem
from ingress.status.service import Status

SYNC_LIMIT = 600.0
"""Seconds that a synchronous call waits at most; the conversion itself goes on."""
SYNC_AT_ONCE = 64
_POLL = 0.25
_CODES = {
    400: "ERR_ILLEGAL_PARAMETER",
    401: "ERR_UNAUTHORIZED",
    408: "ERR_ILLEGAL_PARAMETER",
    413: "ERR_ILLEGAL_PARAMETER",
}


def create_accelerator_router(intake: Intake, status: Status) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["acceld"])
    waiting = asyncio.Semaphore(SYNC_AT_ONCE)

    @router.post(
        "/conversions",
        summary="acceld: convert; with sync=true the answer comes when it is done",
        responses={400: {"description": "`{code, message}`"}, 401: {"description": "`{code, message}`"}},
    )
    async def convert(request: Request, sync: Annotated[bool, Query()] = False) -> Response:
        try:
            accepted = await intake.take(request)
        except HttpProblem as problem:
            code = _CODES.get(problem.status, "ERR_CONVERT_FAILED")
            message = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
            return JSONResponse({"code": code, "message": message}, problem.status, problem.headers)
        if sync and accepted.requests:
            if waiting.locked():
                return JSONResponse(
                    {
                        "code": "ERR_CONVERT_FAILED",
                        "message": "too many synchronous calls; it is queued and will be converted",
                    },
                    503,
                )
            async with waiting:
                reason = await _outcome(status, {each.id for each in accepted.requests})
            if reason:
                return JSONResponse({"code": "ERR_CONVERT_FAILED", "message": reason}, 500)
        return JSONResponse("Ok")

    return router


async def _outcome(status: Status, ids: Collection[str]) -> str:
    """Why one of the conversions failed; empty when all ended well."""
    try:
        async with asyncio.timeout(SYNC_LIMIT):
            while True:
                found = [status.history.get(each) for each in ids]
                if all(conversion is not None and conversion.settled for conversion in found):
                    failed = [c for c in found if c is not None and c.status not in {"succeeded", "skipped"}]
                    return failed[0].reason or failed[0].code if failed else ""
                await asyncio.sleep(_POLL)
    except TimeoutError:
        return f"not finished within {SYNC_LIMIT:.0f} s; it goes on in the background"
