"""A console served by a real uvicorn over an in-memory broker, with a week of plausible history to look at."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from opentelemetry.sdk.trace import TracerProvider
from pydantic import SecretStr

from ingress.acceld.tasks import create_task_router
from ingress.api_page.page import create_api_page
from ingress.backfill.runner import BackfillRunner
from ingress.console.console import create_console
from ingress.problem import HttpProblem
from ingress.status.api import create_status_router
from ingress.status.service import Status, create_status
from shared.backfill.events import BackfillPlan, BackfillProgress, PlannedConversion, State, progress_event
from shared.broker.memory import MemoryServer, MemoryTransport
from shared.broker.queue import QueueBroker
from shared.event_reporter import EventReporter
from shared.events import ConversionEvent, Stage, conversion_event
from shared.messages import Attempt, ConversionRequest, DeadLetter, DriverChoice, Failure
from shared.oci.reference import parse_reference
from shared.settings.model import Auth, Console, Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.waiting import PATIENCE

OPERATOR = ("operator", "replay-please")
CONSUMERS = ("convert-7d9f/1", "convert-x2kq/1")
DENIED = Failure(
    code="denied",
    kind="permanent",
    message="harbor.example.com/payments/ledger: put_manifest: 403 DENIED: no push permission",
    details={"registry": "harbor.example.com", "status": 403},
)
AWAY = Failure(code="registry_unavailable", kind="transient", message="harbor.example.com: the connection was refused")
CORRUPT = Failure(
    code="corrupt_layer",
    kind="permanent",
    message="layer sha256:5b1f…: gzip stream ends early <script>alert(1)</script>",
)


def digest(number: int) -> str:
    return f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"


def request(number: int, name: str, tag: str, *, age: float = 60, driver: str = "estargz") -> ConversionRequest:
    return ConversionRequest(
        id=digest(number)[7:39],
        source=parse_reference(f"harbor.example.com/{name}:{tag}@{digest(number)}"),
        target=parse_reference(f"harbor.example.com/{name}:{tag}_esgz"),
        driver=DriverChoice(type=driver, config={"estargz_compression_level": 6}),
        requested_at=datetime.now(UTC) - timedelta(seconds=age),
        operator="robot$ci",
        harbor_request_id=f"7b1e0d3a-{number:04d}",
    )


def stages(scale: float = 1.0) -> tuple[Stage, ...]:
    found = [Stage(name="resolve", start_seconds=0, duration_seconds=0.08 * scale)]
    start = 0.1
    for layer in range(6):
        subject, size = digest(-layer), (6 - layer) * 9_300_000
        seconds = (6 - layer) * 0.9
        parts = (("pull", 0.0, 0.55), ("convert", 0.08, 0.8), ("push", 0.3, 0.75))
        for name, offset, length in parts:
            found.append(
                Stage(
                    name=name,
                    subject=subject,
                    start_seconds=(start + offset * seconds) * scale,
                    duration_seconds=length * seconds * scale,
                    bytes=size,
                )
            )
        start += 0.35 * seconds
    end = max(s.start_seconds + s.duration_seconds for s in found)
    found += [
        Stage(name="manifest", start_seconds=end, duration_seconds=0.12 * scale, bytes=3120),
        Stage(name="tag", start_seconds=end + 0.12 * scale, duration_seconds=0.09 * scale, bytes=3120),
    ]
    return tuple(found)


def succeeded(
    r: ConversionRequest, at: datetime, *, attempt: int = 1, consumer: str = CONSUMERS[0]
) -> list[ConversionEvent]:
    trace = digest(int(r.id, 16) + attempt)[7:39]
    done = stages()
    seconds = done[-1].start_seconds + done[-1].duration_seconds
    started = conversion_event("started", r, attempt=attempt, consumer=consumer, trace_id=trace, queue_seconds=0.42)
    end = conversion_event(
        "succeeded",
        r,
        attempt=attempt,
        consumer=consumer,
        trace_id=trace,
        duration_seconds=seconds,
        target_digest=digest(int(r.id, 16) + 7),
        source_size=195_400_000,
        target_size=187_900_000,
        layers_total=6,
        layers_reused=2,
        stages=done,
    )
    return [started.model_copy(update={"time": at}), end.model_copy(update={"time": at + timedelta(seconds=seconds)})]


def failed(r: ConversionRequest, at: datetime, failure: Failure, letter: str) -> list[ConversionEvent]:
    trace = digest(int(r.id, 16) + 1)[7:39]
    facts: dict[str, Any] = {"attempt": 1, "consumer": CONSUMERS[1], "trace_id": trace}
    started = conversion_event("started", r, queue_seconds=1.2, **facts)
    end = conversion_event("failed", r, failure=failure, duration_seconds=2.4, dead_letter_id=letter, **facts)
    return [started.model_copy(update={"time": at}), end.model_copy(update={"time": at + timedelta(seconds=2.4)})]


def letter(r: ConversionRequest, failure: Failure, letter_id: str) -> DeadLetter:
    attempt = Attempt(number=1, started_at=r.requested_at, duration_seconds=2.4, consumer=CONSUMERS[1], failure=failure)
    trace = digest(int(r.id, 16) + 1)[7:39]
    return DeadLetter(
        id=letter_id,
        request=r,
        failure=failure,
        attempts=(attempt,),
        died_at=r.requested_at + timedelta(seconds=3),
        consumer=CONSUMERS[1],
        trace_id=trace,
    )


async def fill(broker: QueueBroker) -> None:
    """A day of conversions: most succeed, some are skipped, some die, one waits for a retry, one is under way."""
    names = ("library/redis", "platform/api", "payments/ledger", "data/jupyter", "web/storefront")
    number = 1
    for hour in range(23, -1, -1):
        for index in range(3 + (hour * 7) % 9):
            r = request(number, names[number % 5], f"v1.{number}", age=hour * 3600 + 600 + index * 200)
            number += 1
            at = r.requested_at + timedelta(seconds=1)
            if number % 11 == 0:
                skipped = conversion_event(
                    "skipped", r, reason="up to date", consumer=CONSUMERS[0], duration_seconds=0.2
                )
                await broker.events.publish(skipped.model_copy(update={"time": at}))
                continue
            for event in succeeded(r, at, consumer=CONSUMERS[number % 2]):
                await broker.events.publish(event)
    for offset, (name, failure) in enumerate(
        (("payments/ledger", DENIED), ("payments/invoices", DENIED), ("data/jupyter", CORRUPT))
    ):
        r = request(5000 + offset, name, f"2026.{offset}", age=900 - offset * 100)
        for event in failed(r, r.requested_at, failure, f"letter-{offset}"):
            await broker.events.publish(event)
        await broker.dead_letters.add(letter(r, failure, f"letter-{offset}"))
    r = request(6000, "web/storefront", "nightly", age=100, driver="nydus")
    first = conversion_event("started", r, consumer=CONSUMERS[1], queue_seconds=0.3)
    again = conversion_event(
        "retrying", r, consumer=CONSUMERS[1], failure=AWAY, duration_seconds=10.0, retry_in_seconds=600.0
    )
    await broker.events.publish(first.model_copy(update={"time": r.requested_at}))
    await broker.events.publish(again)
    for event in backfills():
        await broker.events.publish(event)


def backfills() -> list[ConversionEvent]:
    """A plan that is done, and a walk that is under way."""

    def told(name: str, state: State, *, age: float, dry_run: bool, **counts: int) -> ConversionEvent:
        plan = BackfillPlan(
            registry="harbor.example.com", project="platform", repositories=("platform/*",), dry_run=dry_run
        )
        sample = tuple(
            PlannedConversion(
                source=f"harbor.example.com/platform/api:v1.{number}",
                target=f"harbor.example.com/platform/api:v1.{number}_esgz",
                driver="estargz",
            )
            for number in range(1, 6)
        )
        skipped = {"signature, attestation or SBOM": 118}
        progress = BackfillProgress(plan=plan, state=state, sample=sample, skipped=skipped, **counts)
        at = datetime.now(UTC) - timedelta(seconds=age)
        return progress_event(name, progress, OPERATOR[0]).model_copy(update={"time": at})

    return [
        told("plan", "finished", age=400, dry_run=True, repositories=38, tags=1402, planned=1284),
        told("walk", "running", age=2, dry_run=False, repositories=11, tags=402, planned=371, published=371),
    ]


@dataclass
class Site:
    url: str
    loop: asyncio.AbstractEventLoop
    server: MemoryServer
    broker: QueueBroker
    status: Status

    def publish(self, *events: ConversionEvent) -> None:
        """From the test's thread."""
        for event in events:
            asyncio.run_coroutine_threadsafe(self.broker.events.publish(event), self.loop).result(PATIENCE)

    def look(self) -> None:
        """Let the page know what the broker says now."""
        asyncio.run_coroutine_threadsafe(self.status.monitor.look(), self.loop).result(PATIENCE)

    def stats(self) -> dict[str, int | None]:
        found = asyncio.run_coroutine_threadsafe(self.broker.stats(), self.loop).result(PATIENCE)
        return {"ready": found.ready, "dead": found.dead}


def settings() -> Settings:
    console = Console(
        operator_credential=SecretStr(":".join(OPERATOR)), trace_url="https://grafana.example.com/trace/{trace_id}"
    )
    return Settings(console=console, auths={"harbor.example.com": Auth()})


@contextmanager
def site(prefix: str = "") -> Iterator[Site]:
    """Serve in a thread of its own until the block ends; ``prefix`` mounts everything below a path."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        ready = threading.Event()
        found: list[Site] = []
        servers: list[uvicorn.Server] = []

        async def serve() -> None:
            server_state = MemoryServer()
            server_state.consumers = len(CONSUMERS)  # nobody subscribes here, and a page without consumers is all alarm
            transport = MemoryTransport(server_state)
            broker = QueueBroker(transport, delivery_limit=10)
            await fill(broker)
            status = create_status(settings(), broker, Metrics(), Tracing(TracerProvider()))
            app = FastAPI(docs_url=None)

            @app.exception_handler(HttpProblem)
            async def problem(_request: Request, error: HttpProblem) -> Response:
                return error.response()

            app.include_router(create_status_router(status, heartbeat=1))
            app.include_router(create_task_router(status))
            app.include_router(create_api_page(app.openapi))
            reporter = EventReporter(broker.events, status.metrics, ())
            runner = BackfillRunner(settings(), broker, status.backfills, tracing=status.tracing, reporter=reporter)
            app.include_router(create_console(status, runner))
            outer = FastAPI()
            outer.mount(prefix, app)
            server = uvicorn.Server(uvicorn.Config(outer if prefix else app, log_config=None, lifespan="off"))
            servers.append(server)
            found.append(
                Site(f"http://127.0.0.1:{port}{prefix}", asyncio.get_running_loop(), server_state, broker, status)
            )
            async with reporter.running(), status.running(), runner.running():
                serving = asyncio.create_task(server.serve([listener]))
                while not server.started or status.follower.rebuilding:
                    await asyncio.sleep(0.02)
                ready.set()
                while not server.should_exit:
                    await asyncio.sleep(0.05)
                status.live.close()
                await serving

        thread = threading.Thread(target=asyncio.run, args=(serve(),), name="console")
        thread.start()
        try:
            if not ready.wait(PATIENCE):
                raise RuntimeError("the console did not start")
            yield found[0]
        finally:
            for server in servers:
                server.should_exit = True
            thread.join(PATIENCE)


if __name__ == "__main__":
    with site() as running:
        print(running.url, flush=True)
        time.sleep(3600)
