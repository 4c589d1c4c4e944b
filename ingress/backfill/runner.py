"""Walks a backfill in this replica's background, and tells the event stream how far it is."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ingress.backfill.record import SAMPLE, BackfillRecord, Backfills
from shared.backfill.catalogues import open_catalogue
from shared.backfill.events import BackfillPlan, BackfillProgress, PlannedConversion, State, progress_event, stop_event
from shared.backfill.walk import BackfillReport, Journal, backfill
from shared.broker.api import Broker
from shared.enqueue import Enqueuer
from shared.errors import IcsError, PermanentError
from shared.event_reporter import EventReporter
from shared.events import ConversionEvent
from shared.messages import ConversionRequest
from shared.planning import Planner
from shared.settings.model import Globs, Settings
from shared.telemetry.tracing import Tracing

_TELL = 1.0
_BEAT = 10.0
"""Seconds between two progress events: while something changes, and while nothing does."""
_log = logging.getLogger(__name__)


class BackfillRunner:
    """One walk at a time, in all replicas together as far as their history tells."""

    def __init__(
        self, settings: Settings, broker: Broker, backfills: Backfills, *, tracing: Tracing, reporter: EventReporter
    ) -> None:
        self._settings = settings
        self._backfills = backfills
        self._reporter = reporter
        self._enqueue = Enqueuer(settings, broker, tracing=tracing, tell=reporter.tell)
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as walks may run; what runs at the end is told to be interrupted, and can be resumed."""
        try:
            yield
        finally:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    @property
    def registries(self) -> list[str]:
        """Those that may be walked: the configuration's allow-list, and the names that it maps to it."""
        return sorted({*self._settings.auths, *self._settings.endpoints})

    def start(self, plan: BackfillPlan, actor: str) -> BackfillRecord:
        """Begin to walk; its record.

        Raises:
            PermanentError: ``not_allowed`` (the registry is not in ``auths``), ``already_running``.
        """
        if plan.registry not in self.registries:
            raise PermanentError(f"{plan.registry} is not in the configuration's auths", code="not_allowed")
        self._refuse_a_second()
        return self._begin(uuid.uuid4().hex[:16], plan, actor, ())

    def resume(self, record: BackfillRecord, actor: str) -> BackfillRecord:
        """Go on where a walk ended: with the repositories that it has not finished.

        Raises:
            PermanentError: ``already_running``.
        """
        self._refuse_a_second()
        return self._begin(record.id, record.plan, actor, tuple(record.finished))

    def stop(self, record: BackfillRecord, actor: str) -> None:
        """Tell whichever replica walks to end."""
        self._reporter.tell(stop_event(record.id, actor))

    def _refuse_a_second(self) -> None:
        running = self._backfills.running()
        if running is not None or (self._task is not None and not self._task.done()):
            what = running.id if running is not None else "one that just began"
            raise PermanentError(f"a backfill is under way: {what}", code="already_running")

    def _begin(self, backfill_id: str, plan: BackfillPlan, actor: str, finished: Sequence[str]) -> BackfillRecord:
        walk = _Walk(backfill_id, plan, actor, finished)
        event = walk.event()
        self._reporter.tell(event)
        self._task = asyncio.create_task(self._run(walk), name=f"backfill {backfill_id}")
        # This replica need not wait for its own event to come back.
        record = self._backfills.apply(event)
        assert record is not None  # noqa: S101  it was made from a progress that can be read
        return record

    async def _run(self, walk: _Walk) -> None:
        beat = asyncio.create_task(self._beat(walk))
        try:
            async with open_catalogue(self._settings, walk.plan.registry, walk.plan.project) as catalogue:
                walk.report = await backfill(
                    walk.plan.registry,
                    catalogue,
                    Planner(self._settings),
                    None if walk.plan.dry_run else self._enqueue,
                    repositories=Globs(include=walk.plan.repositories),
                    tags=Globs(include=walk.plan.tags),
                    journal=walk,
                    limit=walk.plan.limit,
                    rate=walk.plan.rate,
                    on_progress=walk.note,
                )
            walk.state = "finished"
        except IcsError as error:
            walk.state, walk.error = "failed", f"{error.code}: {error.message}"[:1000]
            _log.warning("backfill %s of %s failed: %s", walk.id, walk.plan.registry, walk.error)
        except asyncio.CancelledError:
            if walk.state != "stopped":
                walk.state, walk.error = "stopped", "the ingress that walked was shut down"
                raise
        except Exception:  # noqa: BLE001  a defect: logged whole, and told to who waits for it
            walk.state, walk.error = "failed", "unclassified: see the log"
            _log.exception("backfill %s", walk.id)
        finally:
            beat.cancel()
            self._reporter.tell(walk.event())

    async def _beat(self, walk: _Walk) -> None:
        """Tell of progress, and hear whether somebody, at whichever replica, wants the walk to end."""
        told, at = (-1, -1), 0.0
        while True:
            await asyncio.sleep(_TELL)
            record = self._backfills.get(walk.id)
            if record is not None and record.stop_wanted and self._task is not None:
                walk.state = "stopped"
                self._task.cancel()
                return
            now = (walk.report.repositories, walk.report.tags)
            if now != told or time.monotonic() - at > _BEAT:
                told, at = now, time.monotonic()
                self._reporter.tell(walk.event())


class _Walk(Journal):
    """What is known of a walk; also its journal, kept in the event stream instead of a file."""

    def __init__(self, backfill_id: str, plan: BackfillPlan, actor: str, finished: Sequence[str]) -> None:
        super().__init__(None)
        self.id, self.plan, self.actor = backfill_id, plan, actor
        self.state: State = "running"
        self.error = ""
        self.report = BackfillReport()
        self._news: list[str] = []
        self._sample: list[PlannedConversion] = []
        self._sampled = 0
        for name in finished:
            super().finish(name)

    def finish(self, repository: str) -> None:
        super().finish(repository)
        self._news.append(repository)

    def note(self, report: BackfillReport, requests: Sequence[ConversionRequest]) -> None:
        self.report = report
        for request in requests[: SAMPLE - self._sampled]:
            self._sampled += 1
            self._sample.append(
                PlannedConversion(source=str(request.source), target=str(request.target), driver=request.driver.type)
            )

    def event(self) -> ConversionEvent:
        """Progress up to now; what it tells as news is told once."""
        finished, self._news = tuple(self._news), []
        sample, self._sample = tuple(self._sample), []
        report = self.report
        progress = BackfillProgress(
            plan=self.plan,
            state=self.state,
            error=self.error,
            repositories=report.repositories,
            tags=report.tags,
            planned=report.planned,
            published=report.published,
            resumed=report.resumed,
            skipped=dict(report.skipped),
            finished=finished,
            sample=sample,
        )
        return progress_event(self.id, progress, self.actor)
