"""The development registry as a server."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from cli.devregistry.problems import Problem
from cli.devregistry.routes import Routes
from cli.devregistry.storage import Storage
from cli.devregistry.uploads import Uploads


class DevRegistry:
    """One registry over one folder: made if missing, kept at the end."""

    def __init__(self, root: Path) -> None:
        self.storage = Storage(root)
        self.uploads = Uploads(self.storage)
        self._routes = Routes(self.storage, self.uploads)

    def application(self) -> web.Application:
        self.storage.prepare()
        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", self.answer)
        return application

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._routes.handle(request)
        except Problem as problem:
            return problem.response()


@contextlib.asynccontextmanager
async def serve_registry(registry: DevRegistry, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve on a free port of this machine until the block ends; gives ``host:port``."""
    runner = web.AppRunner(
        registry.application(),
        access_log=None,
        shutdown_timeout=1.0,
        read_bufsize=1 << 20,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
