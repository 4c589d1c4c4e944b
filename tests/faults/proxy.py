"""A reverse proxy in front of a registry that injects faults into requests of a chosen stage.

One proxy per consumer, so that "kill the consumer when it does X" knows whom to kill. It also plays the token server: every
request needs a Bearer token that the proxy issued, and all tokens can be made to expire at once.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, TCPConnector, web

from tests.faults.broken_images import Breakage

Stage = Literal["resolve", "pull", "push", "manifest", "tag"]
STAGES: tuple[Stage, ...] = ("resolve", "pull", "push", "manifest", "tag")
FaultKind = Literal[
    "status 429", "status 500", "status 503", "reset", "truncate", "corrupt", "slow", "hang", "expired token",
    "kill", "kill after", "move tag",
]  # fmt: skip
_ANSWERED: tuple[Stage, ...] = ("resolve", "pull")
BITES: dict[FaultKind, tuple[Stage, ...]] = {
    "status 429": STAGES,
    "status 500": STAGES,
    "status 503": STAGES,
    "reset": STAGES,
    "truncate": _ANSWERED,
    "corrupt": (*_ANSWERED, "push"),
    "slow": (*_ANSWERED, "push"),
    "hang": STAGES,
    "expired token": STAGES,
    "kill": STAGES,
    "kill after": STAGES,
    "move tag": STAGES,
}
"""Where each kind can do harm. ``truncate`` ends an answer early and cleanly, ``reset`` cuts the connection in a body's middle."""
PROXY_FAULTS: tuple[tuple[FaultKind, Stage], ...] = tuple(
    (kind, stage) for kind, where in BITES.items() for stage in where
)
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "authorization"}
)


def stage_of(method: str, path: str) -> Stage | None:
    """What a request of a conversion is about; None for what no conversion sends."""
    if re.search(r"/manifests/", path):
        if method == "PUT":
            return "manifest" if "/manifests/sha256:" in path else "tag"
        return "resolve"
    if "/blobs/uploads/" in path:
        return "push"
    if re.search(r"/blobs/sha256:", path):
        return "pull" if method == "GET" else "push"
    return None


@dataclass
class Fault:
    """Armed; strikes the next ``times`` requests of its stage, of ``method`` alone if one is given."""

    kind: FaultKind
    stage: Stage
    times: int = 1
    method: str = ""


@dataclass
class FaultProxy:
    """``async with FaultProxy(upstream="127.0.0.1:5000") as proxy: proxy.address``."""

    upstream: str
    on_kill: Callable[[], None] = lambda: None
    on_move: Callable[[str], Awaitable[None]] | None = None
    """Told the source tag that was resolved last: push something else under it."""
    broken: Mapping[str, Breakage] = field(default_factory=dict)
    """Digests of layers that stay broken until they are taken out; shared by all proxies of a run."""
    armed: list[Fault] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    """``kind @ stage`` → how often it really hit."""
    address: str = ""
    source_tag: str = ""
    _tokens: set[str] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._session = ClientSession(
            connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None, sock_connect=5), auto_decompress=False
        )
        application = web.Application(client_max_size=1 << 40)
        application.router.add_get("/token", self._token)
        application.router.add_route("*", "/{path:.*}", self._forward)
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # cut connections are what it is for
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def arm(self, fault: Fault) -> None:
        self.armed.append(fault)

    def calm(self) -> None:
        """No more faults."""
        self.armed.clear()

    def _strike(self, stage: Stage | None, request: web.Request) -> Fault | None:
        for fault in self.armed:
            if fault.stage == stage and fault.method in {"", request.method} and _bites(fault.kind, request):
                fault.times -= 1
                if fault.times <= 0:
                    self.armed.remove(fault)
                self.struck[f"{fault.kind} @ {fault.stage}"] += 1
                return fault
        return None

    async def _token(self, _request: web.Request) -> web.Response:
        token = secrets.token_hex(16)
        self._tokens.add(token)
        return web.json_response({"token": token, "expires_in": 3600})

    def _challenge(self) -> web.Response:
        realm = f'Bearer realm="http://{self.address}/token",service="faults",scope="repository:any:pull,push"'
        body = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        return web.json_response(body, status=401, headers={"WWW-Authenticate": realm})

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        stage = stage_of(request.method, request.path)
        if (
            stage == "resolve"
            and (tag := request.path.rpartition("/")[2])
            and not tag.endswith("_esgz")
            and ":" not in tag
        ):
            self.source_tag = tag
        fault = self._strike(stage, request)
        kind = fault.kind if fault else None
        if kind == "expired token":
            self._tokens.clear()
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._tokens:
            return self._challenge()
        if kind == "kill":
            self.on_kill()
        if kind == "move tag" and self.on_move is not None and self.source_tag:
            await self.on_move(self.source_tag)
        if kind == "reset" and request.transport is not None and request.method != "GET":
            await request.content.read(1024)
            request.transport.abort()
            raise ConnectionResetError
        if kind == "hang" and request.method != "GET":
            await asyncio.sleep(3600)
        if kind is not None and kind.startswith("status"):
            status = int(kind.split()[1])
            code = {429: "TOOMANYREQUESTS", 500: "UNKNOWN", 503: "UNAVAILABLE"}[status]
            return _refusal(status, code)
        breakage = self.broken.get(request.path.rpartition("/")[2]) if stage == "pull" else None
        if breakage == "missing layer":
            return _refusal(404, "BLOB_UNKNOWN")
        if breakage == "forbidden layer":
            return _refusal(403, "DENIED")
        if breakage is not None:
            kind = "truncate" if breakage == "cut layer" else "corrupt"
        try:
            response = await self._relay(request, stage, kind)
        except ClientConnectionError:
            return _refusal(502, "UNAVAILABLE")
        if kind == "kill after":
            self.on_kill()
        return response

    async def _relay(self, request: web.Request, stage: Stage | None, kind: FaultKind | None) -> web.StreamResponse:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP_BY_HOP}
        async with self._session.request(
            request.method,
            f"http://{self.upstream}{request.raw_path}",
            headers=headers,
            data=_damaged(request, kind) if request.can_read_body else None,
            allow_redirects=False,
        ) as answer:
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP_BY_HOP}
            if "Location" in kept:
                kept["Location"] = kept["Location"].replace(f"//{self.upstream}/", f"//{request.host}/")
            if kind == "truncate":
                kept.pop("Content-Length", None)  # so that nothing but the digest tells
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                if kind in {"truncate", "reset", "hang"} and request.transport is not None:
                    await response.write(piece[: len(piece) // 2])
                    if kind == "truncate":
                        break
                    if kind == "hang":
                        await asyncio.sleep(3600)
                    request.transport.abort()
                    raise ConnectionResetError
                if kind == "corrupt" and request.method == "GET" and piece:
                    piece = piece[:-1] + bytes([piece[-1] ^ 0xFF])  # noqa: PLW2901  the piece, damaged
                    kind = None
                if kind == "slow":
                    await asyncio.sleep(0.2)
                await response.write(piece)
            await response.write_eof()
            return response


def _bites(kind: FaultKind, request: web.Request) -> bool:
    """Whether there is a body to harm; other kinds need none."""
    if kind == "truncate":
        return request.method == "GET"
    if kind in {"corrupt", "slow"}:
        return request.method == "GET" or request.can_read_body
    return True


async def _damaged(request: web.Request, kind: FaultKind | None) -> AsyncIterator[bytes]:
    """The request's body, as the fault leaves it."""
    async for piece in request.content.iter_any():
        if kind == "slow":
            await asyncio.sleep(0.2)
        if kind == "corrupt" and piece:
            yield piece[:-1] + bytes([piece[-1] ^ 0xFF])
            kind = None
        else:
            yield piece


def _refusal(status: int, code: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": "injected"}]}, status=status)
