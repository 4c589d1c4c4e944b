"""The ingress as an ASGI application: webhooks in, health, metrics, and the routers of status, dead letters and console."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from ingress.acceld.convert import create_convert_router
from ingress.acceld.refusal import answer_in_accelds_words
from ingress.acceld.tasks import create_task_router
from ingress.api_page.page import create_api_page
from ingress.backfill.api import create_backfill_router
from ingress.backfill.runner import BackfillRunner
from ingress.console.console import create_console
from ingress.dead_letters import create_dead_letter_router
from ingress.express_lane import ExpressLane
from ingress.intake import Accepted, Intake
from ingress.path_prefix import PathPrefix
from ingress.problem import HttpProblem, problems
from ingress.status.api import create_status_router
from ingress.status.service import create_status
from shared.broker.api import Broker
from shared.errors import IcsError
from shared.event_reporter import EventReporter
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from shared.version import service_version

DESCRIPTION = """Takes the webhooks of Harbor (Default and CloudEvents bodies), of CNCF distribution, and of acceld's clients, plans
conversions by the configured rules, and puts them into the queue. **202 means that the broker has them on disk.**"""


def create_app(settings: Settings, broker: Broker, *, metrics: Metrics, tracing: Tracing) -> FastAPI:
    """Everything that one ingress replica serves; it keeps no state but what it reads from the broker."""
    reporter = EventReporter(broker.events, metrics, ())
    intake = Intake(settings, broker, metrics=metrics, tracing=tracing, reporter=reporter)
    status = create_status(settings, broker, metrics, tracing)
    backfills = BackfillRunner(settings, broker, status.backfills, tracing=tracing, reporter=reporter)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with reporter.running(), status.running(), backfills.running():
            yield

    app = ExpressLane(
        title="Image conversion service",
        version=service_version(),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.status = status
    app.add_middleware(PathPrefix, prefix=settings.console.path_prefix)

    async def take(request: Request) -> Response:
        accepted = await intake.take(request)
        return Response(
            orjson.dumps(_answer(accepted)), 202 if accepted.requests else 200, media_type="application/json"
        )

    @app.post(
        settings.endpoint,
        tags=["webhooks"],
        summary="Take a webhook",
        status_code=202,
        responses=problems(
            s400="Not a webhook",
            s401="Authorization is missing or wrong",
            s408="The body took too long to arrive",
            s413="Larger than limits.webhook_body",
            s500="ICS failed; its log says how",
            s503="Could not be persisted: send it again",
        )
        | {200: {"description": "Understood, and not wanted; `skipped` says why"}},
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
        },
    )
    async def conversion(request: Request) -> Response:
        return await take(request)

    for path in (settings.endpoint, settings.console.path_prefix + settings.endpoint):
        app.express(path, take)

    @app.head("/health", include_in_schema=False)
    @app.get(
        "/health",
        tags=["operation"],
        summary="Whether webhooks can be persisted",
        status_code=204,
        response_class=Response,
        responses=problems(s500="The reason"),
    )
    async def health() -> Response:
        try:
            await broker.check_health()
        except IcsError as error:
            metrics.broker_up(up=False)
            return HttpProblem(500, "the broker is not usable", error.message, code=error.code).response()
        metrics.broker_up(up=True)
        return Response(status_code=204)

    if settings.metric.enabled:

        @app.get(
            settings.metric.path,
            tags=["operation"],
            summary="Prometheus text, OpenMetrics, or JSON",
            response_class=Response,
        )
        async def exposition(request: Request) -> Response:
            body, content_type = await asyncio.to_thread(metrics.render, request.headers.get("accept", ""))
            return Response(body, headers={"Content-Type": content_type})

    app.include_router(create_convert_router(intake, status))
    app.include_router(create_task_router(status))
    answer_in_accelds_words(app)
    app.include_router(create_status_router(status))
    app.include_router(create_dead_letter_router(status))
    app.include_router(create_backfill_router(status.access, status.backfills, backfills))
    app.include_router(create_api_page(app.openapi))
    if settings.console.enabled:
        app.include_router(create_console(status, backfills))

        @app.get("/", include_in_schema=False)
        async def entrance() -> Response:
            return RedirectResponse("console/", 307)

    return app


def _answer(accepted: Accepted) -> dict[str, object]:
    answer: dict[str, object] = {
        "conversions": [
            {
                "id": request.id,
                "source": str(request.source),
                "target": str(request.target),
                "rule": request.rule,
                "driver": request.driver.type,
            }
            for request in accepted.requests
        ],
        "skipped": [
            {"source": str(skip.reference), "rule": skip.rule, "reason": skip.reason} for skip in accepted.skipped
        ],
    }
    if accepted.ignored:
        answer["reason"] = accepted.ignored
    return answer
