"""What the status API answers: stable JSON, times as RFC 3339 in UTC, durations in seconds, sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from ingress.status.attempt_record import AttemptOutcome, AttemptRecord
from ingress.status.conversion import Conversion, Status
from ingress.status.follower import Follower
from ingress.status.history import History
from ingress.status.monitor import BrokerMonitor


class ConversionSummary(BaseModel):
    """One conversion in a list."""

    id: str
    status: Status
    repository: str = Field(description="registry/repository of the source")
    tag: str
    source_digest: str
    target: str
    driver: str
    rule: str
    priority: str
    created: datetime
    started: datetime | None = Field(description="start of the newest attempt")
    finished: datetime | None
    retry_at: datetime | None
    run: int = Field(description="1, and one more with every replay")
    attempt: int = Field(description="of this run; 0 while nothing has begun")
    code: str = Field(description="error code of the last failure, else empty")
    reason: str = Field(description="why it was skipped, or who cancelled it")
    consumer: str
    source_size: int | None
    target_size: int | None
    trace_id: str
    trace_url: str = Field(description="empty unless console.trace_url is configured")
    dead_letter_id: str
    progress_done: int = Field(description="source bytes read by the running attempt, as far as it has told")
    progress_total: int


class StageView(BaseModel):
    name: str
    subject: str = Field(description="layer digest or platform")
    start_seconds: float = Field(description="since the attempt's start")
    duration_seconds: float
    bytes: int


class AttemptView(BaseModel):
    run: int
    number: int
    outcome: AttemptOutcome
    consumer: str
    started: datetime
    duration_seconds: float | None
    queue_seconds: float | None
    retry_in_seconds: float | None
    code: str
    kind: str
    message: str
    details: dict[str, Any]
    trace_id: str
    trace_url: str
    stages: list[StageView]


class ActionView(BaseModel):
    """What a person asked for."""

    time: datetime
    actor: str


class ConversionDetail(ConversionSummary):
    """One conversion with everything known about it."""

    target_digest: str
    layers_total: int | None
    layers_reused: int | None
    operator: str
    event_id: str
    harbor_request_id: str
    platforms: list[str] = Field(description="empty means all")
    options: dict[str, Any] = Field(description="of the driver")
    replays: list[ActionView]
    discarded_by: str
    cancelling: ActionView | None = Field(description="cancelled, and not ended yet")
    cancelled_by: str
    attempts: list[AttemptView] = Field(description="newest first")


class ConversionPage(BaseModel):
    items: list[ConversionSummary]
    next: str = Field(description="cursor of the next page; empty on the last")
    as_of: datetime | None = Field(description="time of the newest event that this replica has seen")
    rebuilding: bool = Field(description="whether the history is still being read: the list is not complete yet")


class QueueView(BaseModel):
    """Null: the broker cannot tell."""

    up: bool
    error: str
    checked_at: datetime | None
    ready: int | None
    in_flight: int | None
    retrying: int | None
    dead: int | None
    consumers: int | None
    oldest_age_seconds: float | None
    dead_by_code: dict[str, int]


class ConsumerView(BaseModel):
    name: str = Field(description="host/pid")
    last_seen: datetime
    running: list[str] = Field(description="ids of conversions under way")
    succeeded: int = Field(description="conversions")
    failed_attempts: int = Field(description="those that were or will be tried again, too")


class RegistryView(BaseModel):
    name: str
    last_success: datetime | None
    last_failure: datetime | None
    last_code: str


class HourView(BaseModel):
    """Conversions that ended in it, by their end. One that was replayed ends more than once."""

    start: datetime
    succeeded: int
    skipped: int
    failed: int = Field(description="for good")


class Overview(BaseModel):
    counts: dict[Status, int] = Field(description="conversions of the history by what they are now")
    queue: QueueView
    consumers: list[ConsumerView]
    registries: list[RegistryView]
    hours: list[HourView] = Field(description="the last 24, oldest first")
    as_of: datetime | None
    rebuilding: bool


class StatusViews:
    """Builds the views out of what this replica knows."""

    def __init__(self, history: History, follower: Follower, monitor: BrokerMonitor, trace_url: str) -> None:
        self.history, self.follower, self.monitor = history, follower, monitor
        self._trace_url = trace_url

    def trace_link(self, trace_id: str) -> str:
        return self._trace_url.replace("{trace_id}", trace_id) if trace_id else ""

    def as_of(self) -> datetime | None:
        return _time(self.history.last_event)

    def summary(self, c: Conversion) -> ConversionSummary:
        return ConversionSummary.model_construct(**self._summary(c))

    def detail(self, c: Conversion) -> ConversionDetail:
        extra = c.extra
        return ConversionDetail.model_construct(
            **self._summary(c),
            target_digest=c.target_digest,
            layers_total=c.layers_total,
            layers_reused=c.layers_reused,
            operator=extra["operator"],
            event_id=extra["event_id"],
            harbor_request_id=extra["harbor_request_id"],
            platforms=extra["platforms"],
            options=extra["options"],
            replays=[ActionView(time=_utc(time), actor=actor) for time, actor in extra["replays"]],
            discarded_by=extra.get("discarded_by", ""),
            cancelling=_cancelling(c, extra),
            cancelled_by=extra["cancelled_by"] if c.status == "cancelled" else "",
            attempts=[self._attempt(attempt) for attempt in reversed(c.attempts)],
        )

    def queue(self) -> QueueView:
        snapshot = self.monitor.snapshot
        stats = snapshot.stats
        return QueueView(
            up=snapshot.up,
            error=snapshot.error,
            checked_at=_utc(snapshot.checked_at) if snapshot.checked_at else None,
            ready=stats.ready,
            in_flight=stats.in_flight,
            retrying=stats.retrying,
            dead=stats.dead,
            consumers=stats.consumers,
            oldest_age_seconds=stats.oldest_age_seconds,
            dead_by_code=snapshot.dead_by_code,
        )

    def consumers(self) -> list[ConsumerView]:
        """Last seen first."""
        return [
            ConsumerView(
                name=record.name,
                last_seen=_utc(record.last_seen),
                running=sorted(record.running),
                succeeded=record.succeeded,
                failed_attempts=record.failed_attempts,
            )
            for record in reversed(self.history.consumers.values())
        ]

    def overview(self, now: float) -> Overview:
        hour = int(now // 3600)
        return Overview(
            counts={status: count for status, count in self.history.counts.items() if count > 0},
            queue=self.queue(),
            consumers=self.consumers()[:50],
            registries=[
                RegistryView(
                    name=r.name,
                    last_success=_time(r.last_success),
                    last_failure=_time(r.last_failure),
                    last_code=r.last_code,
                )
                for r in self.history.registries.values()
            ],
            hours=[self._hour(key) for key in range(hour - 23, hour + 1)],
            as_of=self.as_of(),
            rebuilding=self.follower.rebuilding,
        )

    def _hour(self, key: int) -> HourView:
        counts: Mapping[str, int] = self.history.hours.get(key, {})
        return HourView(
            start=_utc(key * 3600),
            succeeded=counts.get("succeeded", 0),
            skipped=counts.get("skipped", 0),
            failed=counts.get("failed", 0),
        )

    def _summary(self, c: Conversion) -> dict[str, Any]:
        done, total = self.history.progress(c.id)
        return {
            "id": c.id,
            "status": c.status,
            "repository": c.ref,
            "tag": c.tag,
            "source_digest": c.source_digest,
            "target": c.target,
            "driver": c.driver,
            "rule": c.rule,
            "priority": c.priority,
            "created": _utc(c.created),
            "started": _time(c.started),
            "finished": _time(c.finished),
            "retry_at": _time(c.retry_at),
            "run": c.run,
            "attempt": c.attempt,
            "code": c.code,
            "reason": c.reason,
            "consumer": c.consumer,
            "source_size": c.source_size,
            "target_size": c.target_size,
            "trace_id": c.trace_id,
            "trace_url": self.trace_link(c.trace_id),
            "dead_letter_id": c.dead_letter_id,
            "progress_done": done,
            "progress_total": total,
        }

    def _attempt(self, a: AttemptRecord) -> AttemptView:
        return AttemptView(
            run=a.run,
            number=a.number,
            outcome=a.outcome,
            consumer=a.consumer,
            started=_utc(a.started),
            duration_seconds=a.duration,
            queue_seconds=a.queue_seconds,
            retry_in_seconds=a.retry_in,
            code=a.code,
            kind=a.kind,
            message=a.message,
            details=a.details,
            trace_id=a.trace_id,
            trace_url=self.trace_link(a.trace_id),
            stages=[
                StageView(name=name, subject=subject, start_seconds=start, duration_seconds=duration, bytes=size)
                for name, subject, start, duration, size in a.stages
            ],
        )


def _cancelling(c: Conversion, extra: Mapping[str, Any]) -> ActionView | None:
    asked = None if c.settled else extra.get("cancelling")
    return None if asked is None else ActionView(time=_utc(asked[0]), actor=asked[1])


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else _utc(seconds)
