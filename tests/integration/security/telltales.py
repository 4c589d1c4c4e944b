"""Servers that repeat what they were told: registries, a token realm, and receivers of notifications, labels and traces."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from shared.oci.digest import Digest


@dataclass
class Telltale:
    """Remembers every request, and answers with what ``answer`` makes of it."""

    answer: Callable[[web.Request], web.StreamResponse]
    seen: list[str] = field(default_factory=list)
    """Authorization headers."""
    bodies: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.headers.get("Authorization", ""))
        self.bodies.append((await request.read()).decode("latin-1"))
        return self.answer(request)


def retold(request: web.Request) -> str:
    """The header, its value alone, and the user and password in it."""
    header = request.headers.get("Authorization", "")
    value = header.partition(" ")[2]
    told = [header, value]
    if header.startswith("Basic "):
        told.append(base64.b64decode(value).decode())
        told.append(told[-1].partition(":")[2])
    return f"you sent {' and '.join(reversed(told))}"


def echo(status: int) -> Telltale:
    """A server that answers everything with ``status`` and all that it was sent."""

    def answer(request: web.Request) -> web.StreamResponse:
        headers = "; ".join(f"{name}: {value}" for name, value in request.headers.items())
        return web.Response(status=status, text=f"{request.method} {request.url} {headers} {retold(request)}")

    return Telltale(answer)


def registry(status: int) -> Telltale:
    """Basic authentication, then ``status`` with the distribution specification's errors."""

    def answer(request: web.Request) -> web.StreamResponse:
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        password = retold(request).split()[2]
        return web.json_response({"errors": [{"code": password, "message": retold(request)}]}, status=status)

    return Telltale(answer)


def misnaming_registry() -> Telltale:
    """Manifests whose media type is the password."""
    manifest = b'{"schemaVersion": 2}'

    def answer(request: web.Request) -> web.StreamResponse:
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if request.path.endswith("_esgz"):
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        password = retold(request).split()[2]
        headers = {"Content-Type": password, "Docker-Content-Digest": str(Digest.of(manifest))}
        return web.Response(body=manifest, headers=headers)

    return Telltale(answer)


def misleading_registry() -> Telltale:
    """Redirects to a host that is called like the password."""

    def answer(request: web.Request) -> web.StreamResponse:
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        password = retold(request).split()[2]
        location = f"http://user:{password}@{password}.example.com/{password}?{password}"
        return web.Response(status=307, headers={"Location": location})

    return Telltale(answer)


def token_registry(token: str, *, realm_status: int = 200) -> Telltale:
    """Bearer authentication by a realm of its own; then 403, and what was sent. Or a realm that fails and tells why."""

    def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            if realm_status != 200:
                return web.json_response({"errors": [{"code": "X", "message": retold(request)}]}, status=realm_status)
            return web.json_response({"token": token, "expires_in": 300})
        if "Authorization" not in request.headers:
            challenge = f'Bearer realm="http://{request.host}/token",service="x"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return web.json_response({"errors": [{"code": "DENIED", "message": retold(request)}]}, status=403)

    return Telltale(answer)
