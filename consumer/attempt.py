"""One attempt at one delivery: convert within the time limit, tell what happened, settle exactly once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic

from opentelemetry.trace import Span

from consumer.attempt_events import AttemptEvents
from consumer.both_ends import BothEnds
from consumer.cancellations import Cancellation
from consumer.conversion import Converted, Left
from consumer.lease import expiring_when
from consumer.outcome import Ack, Dead, Leave, Retry, decide
from consumer.progress import ConversionProgress
from consumer.workshop import Workshop
from shared.broker.api import Delivery
from shared.errors import IcsError, TransientError
from shared.exhausted import LOCAL_RESOURCE, local_resource, resource_of
from shared.instance import INSTANCE
from shared.messages import Attempt, DeadLetter, Failure
from shared.telemetry.metrics import Outcome as CountedOutcome
from shared.telemetry.spans import process_span, record_error
from shared.telemetry.tracing import trace_id, traceparent

LOOK = 10.0
"""Seconds for a look at what an earlier attempt has put, at one that is cancelled."""
_LEFT: dict[Left | None, str] = {
    "nothing": "",
    "outdated": "; its target is of a source that its tag has left: push or backfill it to have it made anew",
    None: "; an earlier attempt had begun and may have put its target",
}
_log = logging.getLogger(__name__)


class AttemptRun:
    """Handles one delivery, once."""

    def __init__(self, workshop: Workshop, delivery: Delivery) -> None:
        self._shop = workshop
        self._delivery = delivery
        self._request = delivery.request
        self._registries = BothEnds(delivery.request, workshop.circuits, workshop.ask)
        self._started_at = datetime.now(UTC)
        self._began = monotonic()
        self._converting_since: datetime | None = None
        self._on_trial = workshop.machine.on_trial
        self._number = len(delivery.attempts) + 1
        self._events = AttemptEvents(workshop.reporter, delivery.request, self._number)
        self._log = logging.LoggerAdapter(_log, {"conversion": delivery.request.id})

    async def handle(self) -> None:
        """Never raises but for cancellation; a delivery that could not be settled is delivered again by the broker."""
        shop, request = self._shop, self._request
        await shop.cancellations.caught_up()
        cancellation = self._cancellation()
        pause = 0.0 if cancellation else await self._registries.admit()
        if pause > 0 and self._may_wait:
            self._log.info("%s waits %.0f s: its registry is down", request.source, pause)
            await self._settle_safely(self._delivery.release(pause))
            return
        queued = self._queue_seconds()
        with process_span(
            shop.tracing,
            request,
            shop.queue,
            headers=self._delivery.headers,
            attempts=self._delivery.attempts,
            queue_seconds=queued,
            redelivered=self._delivery.redelivered,
        ) as span:
            shop.metrics.queue_time(queued, trace_id(span))
            shop.metrics.conversion_started(request.ref, request.tag)
            counted: CountedOutcome = "released"
            try:
                if cancellation:
                    counted = await self._called_off(span, cancellation)
                else:
                    counted = await self._convert_and_settle(span, queued)
            finally:
                seconds = monotonic() - self._began
                shop.metrics.conversion_finished(request.ref, request.tag, counted, seconds, trace_id(span))

    async def _convert_and_settle(self, span: Span, queued: float) -> CountedOutcome:
        shop = self._shop
        progress = ConversionProgress(shop.tracing, shop.metrics, self._events.progress)
        self._converting_since = datetime.now(UTC)
        self._events.tell("started", span, queue_seconds=queued)
        converted: Converted | None = None
        error: BaseException | None = None
        try:
            async with (
                asyncio.timeout(shop.settings.timeouts.conversion) as limit,
                expiring_when(self._delivery.recalled.wait, limit),
                expiring_when(partial(self._called_off_in_time, progress), limit),
            ):
                again = self._delivery.redelivered or bool(self._delivery.attempts)
                converted = await shop.converter.convert(self._request, progress, again=again)
        except BaseException as raised:  # noqa: BLE001  whatever it is, decide() says what becomes of the delivery
            error = raised
            if isinstance(raised, Exception) and limit.expired():
                if cancellation := self._cancellation():
                    return await self._called_off(span, cancellation, tuple(progress.stages))
                if self._delivery.recalled.is_set():
                    return await self._preempted(span, tuple(progress.stages))
            if isinstance(raised, TimeoutError) and limit.expired():
                error = TransientError(
                    f"the conversion took longer than timeouts.conversion ({shop.settings.timeouts.conversion:.0f} s)",
                    code="conversion_timeout",
                )
            else:
                error = local_resource(raised) or raised
            record_error(span, error)
        stages = tuple(progress.stages)
        if isinstance(error, TransientError) and error.code == LOCAL_RESOURCE:
            costless, pause = not await self._is_its_own(error), 0.0
        else:
            pause = await self._registries.inform(error, since=self._began)
            costless = pause > 0
        if costless and isinstance(error, IcsError) and self._may_wait:
            return await self._postpone(span, error, pause, stages)
        # The jitter needs no secrecy.
        outcome = decide(error, self._delivery.attempts, shop.settings.retry, jitter=random.random())  # noqa: S311
        match outcome:
            case Leave():
                raise outcome.error
            case Ack():
                counted = self._succeeded(span, converted, outcome, stages)
                await self._acknowledge()
                shop.machine.succeeded()
                return counted
            case Retry() | Dead():
                return await self._failed(span, error, outcome, stages)

    def _succeeded(
        self, span: Span, converted: Converted | None, outcome: Ack, stages: tuple[object, ...]
    ) -> CountedOutcome:
        shop, request = self._shop, self._request
        if converted is None:
            shop.metrics.skipped(outcome.reason)
            self._events.tell("skipped", span, reason=outcome.reason, duration_seconds=self._seconds, stages=stages)
            self._log.info("skipped %s: %s", request.source, outcome.reason)
            return "skipped"
        result = converted.result
        shop.metrics.sizes(result.source_size, result.target_size)
        shop.metrics.layers(converted=result.layers_total - result.layers_reused, reused=result.layers_reused)
        self._events.tell(
            "succeeded",
            span,
            duration_seconds=self._seconds,
            target_digest=str(converted.descriptor.digest),
            source_size=result.source_size,
            target_size=result.target_size,
            layers_total=result.layers_total,
            layers_reused=result.layers_reused,
            reason="; ".join(result.left_out)[:2000],
            stages=stages,
        )
        self._log.info(
            "converted %s to %s in %.2f s: %d layers (%d reused), %d to %d bytes",
            *(converted.request.source, request.target, self._seconds),
            *(result.layers_total, result.layers_reused, result.source_size, result.target_size),
        )
        return "succeeded"

    async def _failed(
        self, span: Span, error: BaseException | None, outcome: Retry | Dead, stages: tuple[object, ...]
    ) -> CountedOutcome:
        shop, failure = self._shop, outcome.failure
        attempt = self._attempt(span, failure)
        facts = {"failure": failure, "duration_seconds": attempt.duration_seconds, "stages": stages}
        where = f"attempt {self._number} at {self._request.source} failed with {failure.code}: {failure.message}"
        trace = error if failure.code == "unclassified" else None
        if isinstance(outcome, Retry):
            await self._settle_safely(self._delivery.retry(outcome.delay, attempt))
            shop.metrics.retried(failure.code)
            self._events.tell("retrying", span, retry_in_seconds=round(outcome.delay, 3), **facts)
            self._log.warning("%s; again in %.0f s", where, outcome.delay, exc_info=trace)
            return "retrying"

        async def told(letter: DeadLetter) -> None:
            shop.metrics.dead_lettered(failure.code, trace_id(span))
            self._log.error("%s; it is dead letter %s", where, letter.id, exc_info=trace)
            self._events.tell("failed", span, dead_letter_id=letter.id, **facts)
            await shop.reporter.published()

        await self._settle_safely(self._delivery.dead_letter(failure, attempt, told))
        return "failed"

    @property
    def _seconds(self) -> float:
        """Since the attempt began."""
        return round(monotonic() - self._began, 3)

    @property
    def _converting_from(self) -> datetime:
        """Now, unless it has begun."""
        return self._converting_since or datetime.now(UTC)

    def _cancellation(self) -> Cancellation | None:
        return self._shop.cancellations.of(self._delivery, self._converting_from)

    async def _called_off_in_time(self, progress: ConversionProgress) -> bool:
        """Whether the conversion can still be stopped when it is cancelled: one that puts its tag ends as what it is."""
        await self._shop.cancellations.heard(self._delivery, self._converting_from)
        return not progress.tagging

    async def _called_off(
        self, span: Span, cancellation: Cancellation, stages: tuple[object, ...] = ()
    ) -> CountedOutcome:
        """Cancelled by an operator: gone for good, like what has succeeded. What an earlier attempt has put stays, and is told."""
        actor = cancellation.actor
        reason = f"cancelled by {actor or 'somebody'}"
        if self._delivery.redelivered:
            left = await self._left()
            if left == "up to date":
                self._log.info("%s: %s too late", self._request.source, reason)
                counted = self._succeeded(span, None, Ack(left), stages)
                await self._acknowledge()
                return counted
            reason += _LEFT[left]
        span.set_attributes({"ics.outcome": "cancelled", "ics.cancelled_by": actor})
        self._events.tell("cancelled", span, actor=actor, reason=reason, duration_seconds=self._seconds, stages=stages)
        self._log.info("%s: %s", self._request.source, reason)
        await self._acknowledge()
        return "cancelled"

    async def _left(self) -> Left | None:
        """None: the registry cannot tell, and is not waited for."""
        shop = self._shop
        try:
            async with asyncio.timeout(LOOK):
                if await self._registries.admit() == 0:
                    return await shop.converter.left(self._request)
        except (IcsError, TimeoutError) as error:
            self._log.info("nobody knows what an earlier attempt at %s has put: %s", self._request.source, error)
        return None

    async def _acknowledge(self) -> None:
        """If this process died after the acknowledgement and before its last event, the conversion would seem to run for ever."""
        try:
            await self._shop.reporter.published()
        finally:
            await self._settle_safely(self._delivery.ack())

    async def _settle_safely(self, settlement: Awaitable[object]) -> None:
        """A broker that is away while we settle delivers the message again: that is safe, and not this attempt's failure."""
        try:
            await settlement
        except IcsError as error:
            self._log.warning(
                "%s could not be settled and will be delivered again: %s", self._request.source, error.message
            )

    async def _is_its_own(self, error: TransientError) -> bool:
        """Whether want of something on this machine is the image's failure: see :mod:`consumer.machine`."""
        postponed = self._delivery.postponed
        earlier = [attempt.failure.code for attempt in self._delivery.attempts[-1:]]
        again = self._on_trial or LOCAL_RESOURCE in (postponed[1:] if postponed else earlier)
        return await self._shop.machine.ran_out(resource_of(error), error.message, again=again)

    async def _postpone(self, span: Span, error: IcsError, pause: float, stages: tuple[object, ...]) -> CountedOutcome:
        """The registry is down, or this machine lacks something: that is not this image's failure, and costs it no attempt."""
        failure = Failure.of(error)
        await self._settle_safely(self._delivery.release(pause, begun=True, code=failure.code))
        self._events.tell(
            "retrying",
            span,
            failure=failure,
            duration_seconds=self._seconds,
            stages=stages,
            retry_in_seconds=round(pause, 3),
        )
        if pause > 0:
            self._log.warning("%s waits %.0f s: its registry is down: %s", self._request.source, pause, failure.message)
        else:
            self._log.info("%s is handed back for others: %s", self._request.source, failure.message)
        return "released"

    async def _preempted(self, span: Span, stages: tuple[object, ...]) -> CountedOutcome:
        """A push needs this backfill's slot. Its finished layers are in the layer cache; it costs no attempt."""
        await self._settle_safely(self._delivery.release(begun=True))
        self._events.tell("preempted", span, duration_seconds=self._seconds, stages=stages)
        self._log.info("%s made room for a push after %.1f s and is queued again", self._request.source, self._seconds)
        return "preempted"

    @property
    def _may_wait(self) -> bool:
        """A registry that never comes back, and what no machine has enough for, end in the dead letters too, only later."""
        waited = (datetime.now(UTC) - self._delivery.published_at).total_seconds()
        return waited < self._shop.settings.retry.maximum_outage

    def _queue_seconds(self) -> float:
        attempts = self._delivery.attempts
        since = self._delivery.published_at
        if attempts:
            last = attempts[-1]
            since = max(since, last.started_at + timedelta(seconds=last.duration_seconds))
        return max(0.0, (self._started_at - since).total_seconds())

    def _attempt(self, span: Span, failure: Failure) -> Attempt:
        return Attempt(
            number=self._number,
            started_at=self._started_at,
            duration_seconds=self._seconds,
            consumer=INSTANCE,
            failure=failure,
            trace_id=trace_id(span),
            traceparent=traceparent(span),
        )
