"""Serving the application: HTTP, or HTTPS with a redirect that keeps method and body."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse

from ingress.gathered_writes import GatheringProtocol
from shared.listening import BACKLOG, listening_socket
from shared.settings.model import Settings

GRACE = 10
"""Seconds that requests under way get at the end."""
ACCEPTED_AT_ONCE = 16
"""Connections accepted in one turn of the event loop. libuv accepts one for each listening handle, so that under load the last of
some hundred new connections would wait longer than Harbor does; the same socket under several handles is accepted from by each.
"""
_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Leaves signals to the process, which stops all its parts in order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with nullcontext():
            yield


async def serve(settings: Settings, app: FastAPI, stop: asyncio.Event) -> None:
    """Serve until ``stop``, then finish what is under way.

    Raises:
        PermanentError: ``address_unavailable``.
    """
    with ExitStack() as stack:

        def listen(port: int, key: str) -> socket.socket:
            listener = stack.enter_context(listening_socket(settings.hostname, port, key))
            _log.info("listening on %s port %d (%s)", settings.hostname, listener.getsockname()[1], key)
            return listener

        if settings.https is None:
            servers = {_server(app): listen(settings.http.port, "http.port")}
        else:
            tls = {"ssl_certfile": settings.https.certificate, "ssl_keyfile": settings.https.private_key}
            servers = {
                _server(app, **tls): listen(settings.https.port, "https.port"),
                _server(redirect_app(settings.https.port)): listen(settings.http.port, "http.port"),
            }
        await _run(servers, app, stop)


def redirect_app(port: int) -> FastAPI:
    """Answers 308 to the same path on https: 301 to 303 would turn Harbor's POST into a GET and lose its body."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"])
    async def redirect(request: Request) -> RedirectResponse:
        host = request.url.hostname or ""
        if ":" in host:
            host = f"[{host}]"
        target = request.url.replace(scheme="https", netloc=host if port == 443 else f"{host}:{port}")
        return RedirectResponse(target, 308)

    return app


def _server(app: FastAPI, **tls: Any) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=GatheringProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE,
            lifespan="on",
            **tls,
        )
    )


async def _run(servers: Mapping[_Server, socket.socket], app: FastAPI, stop: asyncio.Event) -> None:
    tasks = [asyncio.create_task(server.serve(_handles(listener))) for server, listener in servers.items()]
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        # Live streams never end by themselves; closed first, they do not use up the grace.
        app.state.status.live.close()
        for server in servers:
            server.should_exit = True
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _handles(listener: socket.socket) -> list[socket.socket]:
    """The server closes them all."""
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
