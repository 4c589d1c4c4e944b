"""An ingress over a broker in memory, asked through ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from drivers.estargz.options import EstargzOptions
from drivers.nydus.options import NydusOptions
from ingress.app import create_app
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.queue import QueueBroker
from shared.messages import ConversionRequest
from shared.settings.load import load_settings
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.waiting import PATIENCE

MODELS: dict[str, type[BaseModel]] = {"estargz": EstargzOptions, "nydus": NydusOptions}
AUTH = {"Authorization": "Bearer webhook"}
OPERATOR = httpx.BasicAuth("operator", "word")


def settings_for(**environ: str) -> Settings:
    values = {
        "ICS_BROKER__URL": "memory:",
        "ICS_AUTH_HEADER": '["Bearer webhook", "Bearer rotated"]',
        "ICS_AUTHS": '{"hub.harbor.com": {}, "harbor.dev": {}, "127.0.0.1:8080": {}}',
        "ICS_CONSOLE__OPERATOR_CREDENTIAL": "operator:word",
        **environ,
    }
    return load_settings(None, environ=values, option_models=MODELS)


@dataclass
class Ingress:
    """A running application, and the broker behind it."""

    app: FastAPI
    server: MemoryServer
    broker: QueueBroker
    http: httpx.AsyncClient

    async def post(self, body: bytes | dict[str, Any], **headers: str) -> httpx.Response:
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        return await self.http.post("/conversion", headers={**AUTH, **headers}, **content)

    async def queued(self, count: int) -> list[tuple[ConversionRequest, dict[str, str]]]:
        """The first ``count`` messages of the work queue."""
        found = []
        async with asyncio.timeout(PATIENCE), self.broker.deliveries(max(count, 1)) as deliveries:
            async for delivery in deliveries:
                found.append((delivery.request, dict(delivery.headers)))
                await delivery.ack()
                if len(found) == count:
                    break
        return found


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Ingress]:
    server = MemoryServer()
    async with open_memory(server) as transport:
        broker = QueueBroker(transport, delivery_limit=10)
        metrics = Metrics(settings.telemetry.label_cap, process_metrics=False)
        app = create_app(settings, broker, metrics=metrics, tracing=Tracing.from_environment("ingress"))
        transport_ = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport_, base_url="http://ics.example.com") as http,
        ):
            yield Ingress(app, server, broker, http)


@pytest.fixture
async def ingress() -> AsyncIterator[Ingress]:
    async with running(settings_for()) as made:
        yield made
