"""Errors of the HTTP API as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

import orjson
from fastapi import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from shared.errors import IcsError

MEDIA_TYPE = "application/problem+json"
_BY_STATUS = "about:blank"
_MEANING = {
    400: "The body or a parameter cannot be used",
    401: "A credential is missing or wrong",
    403: "Acting is switched off, or the request comes from another site",
    404: "There is nothing of this id",
    408: "The body took too long to arrive",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "`errors` says what is wrong where",
    500: "ICS failed; `type` and its log say how",
    503: "The broker cannot be asked: try again later",
}


class Finding(BaseModel):
    """One thing that is wrong with a request."""

    place: Literal["body", "query", "path", "header", "cookie"] = Field(serialization_alias="in")
    name: str = Field(description="the parameter; of a body a JSON pointer, empty for all of it")
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(
        description="`urn:ics:problem:` and a code that stays, or `about:blank` where the status says all"
    )
    title: str = Field(description="what kind of problem it is")
    status: int
    detail: str = Field(default="", description="what it is this time, and what to do")
    errors: list[Finding] = Field(default=[], description="of a 422: what is wrong where")


class HttpProblem(HTTPException):
    """Answered as ``application/problem+json``, and by the console's pages as a page.

    Args:
        status: of the answer.
        title: what kind of problem it is.
        detail: what it is this time, and what to do.
        code: a word that stays, for programs; without one the status says all.
        errors: what is wrong where.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str = "",
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Finding] = (),
    ) -> None:
        super().__init__(status, detail, headers)
        self.title = title
        self.code = code
        self.errors = errors

    @classmethod
    def of(cls, error: HTTPException) -> HttpProblem:
        """What the framework raised."""
        if isinstance(error, HttpProblem):
            return error
        phrase = HTTPStatus(error.status_code).phrase
        return cls(error.status_code, phrase, error.detail if error.detail != phrase else "", headers=error.headers)

    @classmethod
    def known(cls, error: IcsError) -> HttpProblem:
        """503 of what may succeed later, else 500."""
        status = 503 if error.kind == "transient" else 500
        return cls(status, HTTPStatus(status).phrase, error.message, code=error.code)

    @property
    def message(self) -> str:
        """In one line, for people."""
        return f"{self.title}: {self.detail}" if self.detail else self.title

    def response(self, **more: str) -> Response:
        """``more``: members beside the standard's."""
        body: dict[str, Any] = {
            "type": f"urn:ics:problem:{self.code}" if self.code else _BY_STATUS,
            "title": self.title,
            "status": self.status_code,
        }
        if self.detail:
            body["detail"] = self.detail
        if self.errors:
            body["errors"] = [each.model_dump(by_alias=True) for each in self.errors]
        return Response(orjson.dumps(body | more), self.status_code, self.headers, media_type=MEDIA_TYPE)


def problems(*statuses: int, **meanings: str) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that may answer these; ``meanings`` (of ``s404``, say) where the usual ones are too general."""
    said = _MEANING | {int(name[1:]): meaning for name, meaning in meanings.items()}
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    return {
        status: {"description": said[status], "content": content}
        for status in sorted({*statuses, *(int(name[1:]) for name in meanings)})
    }


TO_READ = problems(401, 500, 503)
TO_ACT = problems(401, 403, 500, 503)
WITH_BODY = problems(400, 408, 413, 415, 422)
