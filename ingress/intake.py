"""From a webhook's bytes to confirmed requests in the queue: authenticate, parse, plan, publish, answer.

Everything happens inside :data:`BUDGET`, well under Harbor's three seconds; an answer of 202 means that the broker has the
requests on disk, 503 that it has not and Harbor should try again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from fastapi import Request
from opentelemetry.trace import Span

from ingress.host_header import server_of
from ingress.inbound import AuthHeader, read_body
from ingress.problem import HttpProblem
from ingress.webhooks.dialects import read_webhook
from ingress.webhooks.notice import MalformedWebhookError
from shared.broker.api import Broker
from shared.enqueue import Enqueuer
from shared.errors import TransientError
from shared.event_reporter import EventReporter
from shared.messages import ConversionRequest
from shared.planning import Planner, Skip
from shared.settings.model import Settings
from shared.telemetry.metrics import Metrics, WebhookOutcome
from shared.telemetry.spans import record_response, webhook_span
from shared.telemetry.tracing import Tracing, trace_id
from shared.time_limit import TimeLimit

BUDGET = 2.5
"""Seconds for the whole answer."""
BODY_SHARE = 2.0
RETRY_AFTER = "5"
AT_ONCE = 256
"""Webhooks that are worked on at once; more wait their turn, so that a burst costs waiting and not memory."""
WAITING = 4096
"""Webhooks that wait their turn; more than can be worked on within the budget are refused at once, to be sent again."""
REFUSALS_SAID = 60.0
"""Seconds between two log lines of one kind of refusal: whoever guesses at the secret must not fill the log."""
_log = logging.getLogger(__name__)


@dataclass
class Accepted:
    """What one webhook came to."""

    sender: str = ""
    """The dialect's name."""
    requests: list[ConversionRequest] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    ignored: str = ""
    """Why the whole body is of no interest."""


class Intake:
    """One for the process."""

    def __init__(
        self, settings: Settings, broker: Broker, *, metrics: Metrics, tracing: Tracing, reporter: EventReporter
    ) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._enqueue = Enqueuer(settings, broker, tracing=tracing, tell=reporter.tell)
        self._planner = Planner(settings)
        self._auth = AuthHeader(settings.auth_header)
        self._body_limit = settings.limits.webhook_body
        self._budget, self._body_share = TimeLimit(BUDGET), TimeLimit(BODY_SHARE)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._open = 0
        self._refusal_due: dict[int, float] = {}

    async def take(self, request: Request) -> Accepted:
        """Handle one webhook request.

        Raises:
            HttpProblem: 400, 401, 408, 413 or 503.
        """
        began = perf_counter()
        outcome: WebhookOutcome = "unavailable"
        labels = ("", "")
        status = 503
        scope = request.scope
        client = scope.get("client")
        headers = request.headers
        server, server_port = server_of(headers.get("host", "")) if self._tracing.collected else ("", None)
        with webhook_span(
            self._tracing,
            method=scope["method"],
            route=scope["path"],
            scheme=scope["scheme"],
            headers=headers,
            server=server,
            server_port=server_port,
            client=client[0] if client else "",
        ) as span:
            self._open += 1
            try:
                if self._open > AT_ONCE + WAITING:
                    raise _unavailable("too many webhooks at once")
                with self._budget():
                    accepted = await self._take(request, span)
                outcome = "accepted" if accepted.requests else "ignored"
                status = 202 if accepted.requests else 200
                if accepted.requests:
                    labels = (accepted.requests[0].ref, accepted.requests[0].tag)
            except HttpProblem as problem:
                status = problem.status_code
                outcome = "unauthorized" if status == 401 else "unavailable" if status == 503 else "invalid"
                if outcome != "unavailable":
                    self._tell_refusal(problem, client[0] if client else "somebody")
                raise
            except TimeoutError:
                raise _unavailable("the broker did not confirm in time") from None
            finally:
                self._open -= 1
                record_response(span, status)
                exemplar = trace_id(span) if span.is_recording() else ""
                self._metrics.webhook(*labels, perf_counter() - began, outcome, exemplar)
        return accepted

    def _tell_refusal(self, problem: HttpProblem, client: str) -> None:
        now = perf_counter()
        if now >= self._refusal_due.get(problem.status_code, now):
            self._refusal_due[problem.status_code] = now + REFUSALS_SAID
            _log.warning("a webhook from %s was refused (%d): %s", client, problem.status_code, problem.detail)

    async def _take(self, request: Request, span: Span) -> Accepted:
        self._auth.check(request)
        async with self._slots:
            body = await read_body(
                request, limit=self._body_limit, setting="limits.webhook_body", within=self._body_share
            )
            try:
                notice = read_webhook(body)
            except MalformedWebhookError as error:
                raise HttpProblem(400, "not a webhook that ICS understands", error.message, code=error.code) from None
            if notice.request_id:
                span.set_attribute("harbor.request_id", notice.request_id)
            span.set_attribute("ics.webhook.sender", notice.sender)
            accepted = Accepted(notice.sender, ignored=notice.ignored)
            for push in notice.pushes:
                plan = self._planner.plan(push)
                accepted.requests += plan.requests
                accepted.skipped += plan.skipped
            await self._publish(accepted.requests)
        for skip in accepted.skipped:
            self._metrics.skipped(skip.reason)
            _log.info("webhook for %s leads to no conversion: %s", skip.reference, skip.reason)
        return accepted

    async def _publish(self, requests: Sequence[ConversionRequest]) -> None:
        """All or nothing as far as the answer goes: what was published before another failed converts once, whenever it is sent
        again.
        """
        try:
            if len(requests) == 1:
                return await self._enqueue(requests[0])
            results = await asyncio.gather(*(self._enqueue(each) for each in requests), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except TransientError as error:
            raise _unavailable(error.message) from None


def _unavailable(reason: str) -> HttpProblem:
    _log.warning("a webhook could not be persisted: %s", reason)
    return HttpProblem(
        503,
        "the webhook could not be persisted",
        f"{reason}; send it again",
        code="not_persisted",
        headers={"Retry-After": RETRY_AFTER},
    )
