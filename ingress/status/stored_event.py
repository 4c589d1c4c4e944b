"""A conversion event as the read model takes it in: validated, but as plain dictionaries, and only where the read model looks.

A starting replica reads hundreds of thousands of them, and models of all their parts would cost it more than everything else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from shared.broker.passed_over import PassedOver
from shared.broker.wire import readable

_Number = Annotated[int, Field(ge=-(2**63), lt=2**63)] | float
"""What was told by a registry may be any number: one that nobody packs into 64 bits is taken for a float."""


class StoredStage(TypedDict):
    name: str
    subject: str
    start_seconds: float
    duration_seconds: float
    bytes: int


class _Driver(TypedDict):
    type: str


class StoredDriver(_Driver, total=False):
    config: dict[str, Any]


class _Request(TypedDict):
    id: str
    source: str
    target: str
    driver: StoredDriver
    requested_at: AwareDatetime


class StoredRequest(_Request, total=False):
    """See :class:`shared.messages.ConversionRequest`; references as they were written."""

    rule: str
    platforms: list[str]
    event_id: str
    harbor_request_id: str
    operator: str
    priority: str


class _Failure(TypedDict):
    code: str
    kind: Literal["transient", "permanent"]
    message: str


class StoredFailure(_Failure, total=False):
    details: dict[str, str | _Number]


class StoredData(TypedDict, total=False):
    """See :class:`shared.events.EventData`."""

    request: StoredRequest | None
    attempt: int
    consumer: str
    trace_id: str
    reason: str
    failure: StoredFailure | None
    retry_in_seconds: float | None
    queue_seconds: float | None
    duration_seconds: float | None
    target_digest: str
    source_size: int | None
    target_size: int | None
    layers_total: int | None
    layers_reused: int | None
    stages: list[StoredStage]
    progress: dict[str, Any] | None
    dead_letter_id: str
    died_at: AwareDatetime | None
    actor: str
    where: dict[str, Any] | None


class _Event(TypedDict):
    id: str
    type: str
    subject: str
    time: AwareDatetime
    data: StoredData


class StoredEvent(_Event, total=False):
    """See :class:`shared.events.ConversionEvent`."""

    specversion: Literal["1.0"]
    traceparent: str


_ONE = TypeAdapter(StoredEvent)
_SEVERAL = TypeAdapter(list[StoredEvent])


def written_reference(text: str) -> tuple[str, str, str]:
    """``registry/repository``, tag and digest of a reference as ``str`` wrote it; what is missing is empty."""
    name, _, digest = text.partition("@")
    head, slash, last = name.rpartition("/")
    repository, _, tag = last.partition(":")
    return f"{head}{slash}{repository}", tag, digest


def decode_stored(body: bytes, passed_over: PassedOver) -> list[StoredEvent]:
    """The events of one message of the stream that can be read; never raises."""
    return readable(body, _ONE, _SEVERAL, passed_over)
