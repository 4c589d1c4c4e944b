"""An application that answers every error as problem details, and says so in its description."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ingress.inbound import read_body
from ingress.problem import MEDIA_TYPE, Finding, HttpProblem, Problem
from shared.errors import IcsError
from shared.time_limit import TimeLimit

BODY_LIMIT = 1 << 20
"""Bytes of a JSON document that somebody asks with."""
BODY_SECONDS = 10
"""Until all of them are here."""
_FRAMEWORKS = ("HTTPValidationError", "ValidationError")


class ProblemApi(FastAPI):
    """Routers and middleware are added as to any.

    Attributes:
        shapes: models that ``responses`` of routes refer to by name, beside :class:`Problem`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.shapes: list[type[BaseModel]] = []
        self.add_exception_handler(HTTPException, _answer)
        self.add_exception_handler(IcsError, _answer)
        self.add_exception_handler(RequestValidationError, _answer)
        self.add_exception_handler(Exception, _answer)

    def openapi(self) -> dict[str, Any]:
        """With :class:`Problem` in the place of what the framework would answer to unsound parameters."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            models: tuple[type[BaseModel], ...] = (Problem, *self.shapes)
            for model in models:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
                schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
            for operations in document["paths"].values():
                for operation in operations.values():
                    _describe_invalid(operation["responses"])
            for name in _FRAMEWORKS:
                schemas.pop(name, None)
        return super().openapi()


class DocumentRoute(APIRoute):
    """A route whose body the framework reads and parses: bounded in size and time, which the framework does not do."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def bounded(request: Request) -> Response:
            body = await read_body(request, limit=BODY_LIMIT, within=TimeLimit(BODY_SECONDS))
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive() -> Any:
                return messages.pop() if messages else await request.receive()

            return await handle(Request(request.scope, receive))

        return bounded


def problem_of(error: Exception) -> HttpProblem:
    """What is answered to whatever a route raised."""
    if isinstance(error, HTTPException):
        return HttpProblem.of(error)
    if isinstance(error, IcsError):
        return HttpProblem.known(error)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    return HttpProblem(500, "Internal Server Error", "the log of this ingress says more")


async def _answer(_request: Request, error: Exception) -> Response:
    return problem_of(error).response()


def _invalid(error: RequestValidationError) -> HttpProblem:
    findings = []
    for each in error.errors():
        place, *path = each["loc"]
        if each["type"] == "json_invalid":
            where = f"{each['ctx']['error']}, at character {path[0]}"
            return HttpProblem(400, "the body is not JSON", where, code="invalid_json")
        name = "".join(f"/{step}" for step in path) if place == "body" else ".".join(map(str, path))
        findings.append(Finding(place=place, name=name, detail=each["msg"]))
    detail = "; ".join(f"{each.place} {each.name}".strip() + f": {each.detail}" for each in findings[:3])
    return HttpProblem(422, "the request cannot be used", detail, code="invalid_request", errors=findings)


def _describe_invalid(responses: dict[str, Any]) -> None:
    content = responses.get("422", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if schema.get("$ref", "").endswith(f"/{_FRAMEWORKS[0]}"):
        responses["422"] = {
            "description": "`errors` says what is wrong where",
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}},
        }
