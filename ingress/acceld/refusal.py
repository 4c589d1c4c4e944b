"""Errors in acceld's words: ``{code, message}``, of which its client shows ``message``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ingress.problem import HttpProblem
from ingress.problem_api import ProblemApi, problem_of
from shared.errors import IcsError

Code = Literal[
    "ERR_ILLEGAL_PARAMETER", "ERR_UNAUTHORIZED", "ERR_CONVERT_FAILED", "ERR_UNHEALTHY", "ERR_INVALID_ENDPOINT"
]
_CODES: dict[int, Code] = {
    400: "ERR_ILLEGAL_PARAMETER",
    401: "ERR_UNAUTHORIZED",
    408: "ERR_ILLEGAL_PARAMETER",
    413: "ERR_ILLEGAL_PARAMETER",
    422: "ERR_ILLEGAL_PARAMETER",
}
_NO_HEADER = "accelctl sends none: use the console"


class Refusal(BaseModel):
    code: Code
    message: str


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that may answer these."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Refusal.__name__}"}}}
    return {status: {"description": "`{code, message}`", "content": content} for status in statuses}


def refuse(status: int, code: Code, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(Refusal(code=code, message=message).model_dump(), status, headers)


def failed(message: str, headers: Mapping[str, str] | None = None) -> Response:
    """500, of all failures: acceld's client takes 501 and above for success."""
    return refuse(500, "ERR_CONVERT_FAILED", message, headers)


def refusal_of(problem: HttpProblem, hint: str = "") -> Response:
    message = "; ".join(filter(None, (problem.message, hint)))
    if problem.status_code in _CODES:
        return refuse(problem.status_code, _CODES[problem.status_code], message, problem.headers)
    return failed(message, problem.headers)


class AcceldRoute(APIRoute):
    """A route whose errors acceld's clients read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except (HTTPException, RequestValidationError, IcsError) as error:
                problem = problem_of(error)
                return refusal_of(problem, _NO_HEADER if problem.status_code == 401 else "")

        return guarded


def answer_in_accelds_words(app: ProblemApi) -> None:
    """What is no endpoint of ours may be one of acceld's that its clients ask for: its members stand beside the problem's."""
    app.shapes.append(Refusal)

    @app.exception_handler(404)
    async def unknown(request: Request, error: HTTPException) -> Response:
        if "/api/v1/" in request.scope["path"] and "endpoint" not in request.scope:
            return HttpProblem.of(error).response(code="ERR_INVALID_ENDPOINT", message="Endpoint not found")
        return HttpProblem.of(error).response()
