"""Who may look and who may act over HTTP: two Basic credentials, compared in constant time, and nothing forged by another site."""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import sha256
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.security.utils import get_authorization_scheme_param

from ingress.problem import HttpProblem
from shared.settings.model import Console

_CHALLENGE = {"WWW-Authenticate": 'Basic realm="ICS", charset="UTF-8"'}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Access:
    """FastAPI dependencies :meth:`read` and :meth:`operate`; both give the user's name.

    Without ``console.credential`` whoever reaches the page may read. Without ``console.operator_credential`` nobody may act.
    """

    def __init__(self, settings: Console) -> None:
        secret = settings.operator_credential
        self._reader = settings.credential.get_secret_value() if settings.credential else ""
        self._operator = secret.get_secret_value() if secret else ""
        self._token_key = sha256(b"ics csrf\0" + self._operator.encode()).digest()

    @property
    def may_operate(self) -> bool:
        """Whether there is an operator at all."""
        return self._operator != ""

    async def read(self, request: Request) -> str:
        """401 unless the request carries one of the credentials, where one is required."""
        if self.is_operator(request):
            return _user(self._operator)
        if not self._reader:
            return ""
        if not _matches(_credential(request), self._reader):
            raise _unauthorized("console.credential or console.operator_credential is wanted, as Basic")
        return _user(self._reader)

    async def operate(self, request: Request) -> str:
        """401 or 403 unless the operator asks, from this site's own pages or from no browser at all."""
        if not self._operator:
            raise HttpProblem(403, "read-only", "console.operator_credential is not configured", code="read_only")
        if not self.is_operator(request):
            raise _unauthorized("only the operator may do this: console.operator_credential is wanted, as Basic")
        if request.method not in _SAFE and not _same_site(request):
            raise HttpProblem(
                403, "this request came from another site", "act from the console's own pages", code="other_site"
            )
        return _user(self._operator)

    def is_operator(self, request: Request) -> bool:
        return self._operator != "" and _matches(_credential(request), self._operator)

    def form_token(self, purpose: str) -> str:
        """For a form's hidden field; the same on every replica, of no use to who does not know the operator's credential."""
        return hmac.new(self._token_key, purpose.encode(), "sha256").hexdigest()

    def check_form_token(self, purpose: str, token: str) -> None:
        """403 unless the form came from a page of ours."""
        if not hmac.compare_digest(self.form_token(purpose).encode(), token.encode()):
            raise HttpProblem(403, "this form is out of date", "go back and load the page again", code="outdated_form")


def json_only(request: Request) -> None:
    """415 unless the body is JSON: a form of another site cannot send that without asking first (CORS)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HttpProblem(
            415, "the body is not application/json", "send it with that Content-Type", code="wrong_content_type"
        )


def _unauthorized(detail: str) -> HttpProblem:
    return HttpProblem(401, "a credential is missing or wrong", detail, code="unauthorized", headers=_CHALLENGE)


def _credential(request: Request) -> str:
    scheme, value = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _matches(given: str, wanted: str) -> bool:
    return hmac.compare_digest(sha256(given.encode()).digest(), sha256(wanted.encode()).digest())


def _user(credential: str) -> str:
    return credential.partition(":")[0]


def _same_site(request: Request) -> bool:
    """Browsers say where a request comes from; other clients send neither header, and carry no one's ambient credential."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return True
    hosts = {request.headers.get("host", ""), request.headers.get("x-forwarded-host", "")}
    return urlsplit(origin).netloc in hosts - {""}
