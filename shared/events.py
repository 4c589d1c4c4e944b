"""Conversion events: CloudEvents 1.0 over the broker's event stream. The status API and the console are read models over it.

``subject`` is the request id. One conversion emits: ``requested`` (ingress), ``started``, any number of ``progress``,
``preempted`` and ``retrying``, and one of ``succeeded``, ``skipped``, ``failed``, ``cancelled``; ``replayed`` and ``discarded``
come from dead-letter operations, ``cancelling`` from an operator who wants it to end, or all that match a filter.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.messages import ConversionRequest, Failure
from shared.request_filter import RequestFilter
from shared.unique import unique_id

EventType = Literal[
    "requested",
    "started",
    "progress",
    "preempted",
    "retrying",
    "succeeded",
    "skipped",
    "failed",
    "cancelling",
    "cancelled",
    "replayed",
    "discarded",
]
TYPE_PREFIX = "io.goharbor.ics.conversion."
TYPES = frozenset(TYPE_PREFIX + kind for kind in get_args(EventType))


class Stage(BaseModel):
    """One timed part of a conversion; stages of one conversion overlap."""

    model_config = ConfigDict(frozen=True)
    name: str
    """``resolve`` ``wait`` ``pull`` ``convert`` ``push`` ``merge`` ``manifest`` ``tag``, or a driver's own; per layer or platform
    where ``subject`` says so.
    """
    subject: str = ""
    """Layer digest or platform, where the stage has one."""
    start_seconds: float
    """Since the attempt's start."""
    duration_seconds: float
    bytes: int = 0


class ConversionEvent(BaseModel):
    """Structured-mode CloudEvent; unknown keys are ignored so that older readers survive newer writers."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    specversion: Literal["1.0"] = "1.0"
    id: str = Field(default_factory=unique_id)
    source: str = "/ics"
    type: str
    """``io.goharbor.ics.conversion.<EventType>``."""
    subject: str
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    datacontenttype: Literal["application/json"] = "application/json"
    traceparent: str = ""
    data: EventData

    @property
    def kind(self) -> str:
        return self.type.removeprefix(TYPE_PREFIX)


class EventData(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    request: ConversionRequest | None = None
    """On every event but ``progress`` and ``cancelling``."""
    attempt: int = 1
    consumer: str = ""
    trace_id: str = ""
    reason: str = ""
    """``skipped``: why, in a short stable phrase (``superseded``, ``up to date`` ...)."""
    failure: Failure | None = None
    retry_in_seconds: float | None = None
    queue_seconds: float | None = None
    """Time from publish to this delivery."""
    duration_seconds: float | None = None
    target_digest: str = ""
    source_size: int | None = None
    """Bytes of all layers of the platforms converted."""
    target_size: int | None = None
    layers_total: int | None = None
    layers_reused: int | None = None
    stages: tuple[Stage, ...] = ()
    progress: dict[str, Any] | None = None
    """``{"layer": digest, "done": bytes, "total": bytes}``."""
    dead_letter_id: str = ""
    died_at: datetime | None = None
    """``discarded``: when it became the letter that is gone now, with its ``failure``: its end, where no event told of it."""
    actor: str = ""
    """Who replayed, discarded or cancelled."""
    where: RequestFilter | None = None
    """``cancelling``: which, instead of one."""


ConversionEvent.model_rebuild()


def conversion_event(
    kind: EventType, request: ConversionRequest, *, traceparent: str = "", **data: Any
) -> ConversionEvent:
    """An event about ``request``; ``data`` are fields of :class:`EventData`."""
    carried = None if kind == "progress" else request
    return ConversionEvent(
        type=TYPE_PREFIX + kind,
        subject=request.id,
        traceparent=traceparent,
        data=EventData(request=carried, **data),
    )


def cancelling_event(conversion_id: str, time: datetime, actor: str) -> ConversionEvent:
    """``actor`` wants what was published under this id until ``time`` to end."""
    return ConversionEvent(
        type=f"{TYPE_PREFIX}cancelling", subject=conversion_id, time=time, data=EventData(actor=actor)
    )


def cancelling_all_event(where: RequestFilter, time: datetime, actor: str) -> ConversionEvent:
    """``actor`` wants whatever matches ``where`` and was published until ``time`` to end."""
    return ConversionEvent(
        type=f"{TYPE_PREFIX}cancelling", subject="*", time=time, data=EventData(actor=actor, where=where)
    )
