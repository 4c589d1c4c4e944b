"""Basic and token authentication of the development registry, with Harbor's habits.

As in Harbor, Basic works on every call, and wrong credentials with a scope get an anonymous token that opens nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import math
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from cli.devregistry.problems import Problem

Mode = Literal["none", "basic", "token"]
_REPOSITORY = re.compile(r"/v2/(.+?)/(?:blobs|manifests|tags|referrers)/")
_SCOPE = re.compile(r"repository:([^:]+):([a-z,*]+)")


@dataclass(slots=True)
class Gate:
    """Who may do what."""

    mode: Mode = "none"
    user: str = ""
    password: str = field(default="", repr=False)
    lifetime: float = 300.0
    """Seconds that a token is accepted."""
    announced_lifetime: float | None = None
    """``expires_in`` of a token's answer; the true lifetime by default."""
    issued: int = 0
    """Tokens given out."""
    _tokens: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict, repr=False)

    def revoke(self) -> None:
        """Every token given out so far is refused from now on."""
        self._tokens.clear()

    def admit(self, request: web.Request) -> None:
        """Raise 401 with a challenge unless the request may do what it asks for."""
        match = _REPOSITORY.match(request.path)
        name = match[1] if match else ""
        self._check(request, name, "pull" if not name or request.method in {"GET", "HEAD"} else "push")
        if request.method == "POST" and "mount" in request.query and (source := request.query.get("from")):
            self._check(request, source, "pull")

    def _check(self, request: web.Request, repository: str, action: Literal["pull", "push"]) -> None:
        """``repository`` empty: being known is enough."""
        if self.mode == "none":
            return
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic" and self._is_right(value):
            return
        if self.mode == "basic":
            raise Problem(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="development"'})
        wanted = f"{repository}:{action}" if repository else ""
        if scheme.lower() == "bearer":
            expires, grants = self._tokens.get(value, (0.0, frozenset()))
            if time.monotonic() < expires and (wanted in grants or (not wanted and grants)):
                return
        raise Problem(401, "UNAUTHORIZED", headers={"WWW-Authenticate": self._challenge(request, repository, action)})

    def token(self, request: web.Request) -> web.Response:
        """The realm's endpoint (GET)."""
        if self.mode != "token":
            raise Problem(404, "NOT_FOUND")
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        right = scheme.lower() == "basic" and self._is_right(value)
        scopes = request.query.getall("scope", [])
        if not right and not scopes:
            raise Problem(401, "UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="development"'})
        grants: set[str] = {""} if right else set()
        for scope in scopes if right else ():
            if match := _SCOPE.fullmatch(scope):
                grants |= {f"{match[1]}:{action}" for action in match[2].split(",")}
        text = secrets.token_urlsafe(24)
        self.issued += 1
        self._tokens[text] = (time.monotonic() + self.lifetime, frozenset(grants))
        announced = self.lifetime if self.announced_lifetime is None else self.announced_lifetime
        return web.json_response({"token": text, "expires_in": math.ceil(announced)})

    def _is_right(self, encoded: str) -> bool:
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(given, f"{self.user}:{self.password}".encode())

    def _challenge(self, request: web.Request, repository: str, action: str) -> str:
        actions = "pull" if action == "pull" else "pull,push"
        scope = f',scope="repository:{repository}:{actions}"' if repository else ""
        return f'Bearer realm="{request.scheme}://{request.host}/token",service="development"{scope}'
