"""What crosses the broker, as bytes: one JSON body and text headers, the same on every transport.

The body of a work message is the :class:`ConversionRequest` itself with one more key, ``attempts``, so that a request
published by hand is a valid message. Headers of our own begin with ``ics-``; every other one (``traceparent`` ...) is the
caller's and travels on untouched, through retries and into the dead letter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from shared.broker.passed_over import PassedOver
from shared.errors import PermanentError
from shared.events import ConversionEvent
from shared.messages import Attempt, ConversionRequest, DeadLetter, Failure, Message
from shared.unique import unique_id

MAX_REQUEST = 256 * 1024
"""Bytes of a request's JSON; with attempts and wrapping it stays under NATS' ``max_payload`` of 1 MiB."""
MAX_EVENTS = 256 * 1024
"""Bytes of events that travel as one message; an event that is larger travels alone."""
MAX_RAW = 64 * 1024
"""Characters of an unparsable body that a dead letter keeps."""
MAX_ATTEMPTS = 40
"""Attempts that travel with a message: the first and the newest."""
MAX_FAILURE_TEXT = 1000
"""Characters of a failure's message."""

UID = "ics-uid"
PUBLISHED_AT = "ics-published-at"
NOT_BEFORE = "ics-not-before"
CRASHES = "ics-crashes"
BEGUN = "ics-begun"
POSTPONED = "ics-postponed"
LANE = "ics-lane"
DEAD_LETTER_ID = "ics-dead-letter-id"
DEAD_LETTER_CODE = "ics-dead-letter-code"
_OWN = "ics-"
_EVENT = TypeAdapter(ConversionEvent)
_EVENTS = TypeAdapter(list[ConversionEvent])
_Event = TypeVar("_Event")


class MalformedMessageError(PermanentError):
    """A body that is no request of a known version (code ``malformed_message``)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="malformed_message")


@dataclass(frozen=True, slots=True)
class WireMessage:
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Queued:
    """A parsed work message."""

    request: ConversionRequest
    attempts: tuple[Attempt, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """The caller's, without our own."""
    uid: str = field(default_factory=unique_id)
    """One accepted publish; retries and hand-backs keep it, a replay gets a new one."""
    published_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    not_before: datetime | None = None
    crashes: int = 0
    """Deliveries of earlier copies that ended without an outcome."""
    begun: bool = False
    """An earlier copy was handed back after its conversion had begun: that is no crash."""
    postponed: tuple[datetime, str] | None = None
    """When an earlier copy was last handed back for a failure that cost no attempt, and its code."""


class _Attempts(Message):
    attempts: tuple[Attempt, ...] = Field(default=(), max_length=1000)


def encode(queued: Queued) -> WireMessage:
    """Bytes and headers of a work message.

    Raises:
        PermanentError: code ``message_too_large``.
    """
    body = queued.request.model_dump_json().encode()
    if len(body) > MAX_REQUEST:
        raise PermanentError(
            f"the conversion request has {len(body)} bytes of JSON, more than {MAX_REQUEST}: shorten its driver options",
            code="message_too_large",
            size=len(body),
            limit=MAX_REQUEST,
        )
    if queued.attempts:
        kept = _Attempts(attempts=bounded_attempts(queued.attempts)).model_dump_json().encode()
        body = body[:-1] + b"," + kept[1:]
    headers = {name: value for name, value in queued.headers.items() if not name.startswith(_OWN)}
    headers |= {UID: queued.uid, PUBLISHED_AT: queued.published_at.isoformat(), LANE: queued.request.priority}
    if queued.not_before is not None:
        headers[NOT_BEFORE] = queued.not_before.isoformat()
    if queued.crashes:
        headers[CRASHES] = str(queued.crashes)
    if queued.begun:
        headers[BEGUN] = "1"
    if queued.postponed is not None:
        at, code = queued.postponed
        headers[POSTPONED] = f"{at.isoformat()} {code}"
    return WireMessage(body, headers)


def decode(message: WireMessage) -> Queued:
    """The inverse of :func:`encode`; also takes a bare request without any header.

    Raises:
        MalformedMessageError: whatever else the bytes are.
    """
    try:
        request = ConversionRequest.model_validate_json(message.body)
        attempts = _Attempts.model_validate_json(message.body).attempts
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise MalformedMessageError(f"not a conversion request: {where[:200]}: {first['msg'][:300]}") from error
    except (ValueError, RecursionError) as error:  # a lone surrogate, nesting beyond any request's
        raise MalformedMessageError("not a conversion request: unreadable JSON") from error
    headers = message.headers
    return Queued(
        request=request,
        attempts=attempts,
        headers={name: value for name, value in headers.items() if not name.startswith(_OWN)},
        # A message without our headers still needs one name for all its deliveries.
        uid=headers.get(UID) or hashlib.sha256(message.body).hexdigest()[:32],
        published_at=_instant(headers.get(PUBLISHED_AT)) or datetime.now(UTC),
        not_before=_instant(headers.get(NOT_BEFORE)),
        crashes=_count(headers.get(CRASHES)),
        begun=BEGUN in headers,
        postponed=_postponed(headers.get(POSTPONED, "")),
    )


def handed_back(message: WireMessage, crashes: int) -> WireMessage:
    """``message``, to be published again by somebody who has not looked at it; ``crashes`` as its broker has counted them."""
    counted = crashes + _count(message.headers.get(CRASHES))
    return WireMessage(message.body, {**message.headers, CRASHES: str(counted)} if counted else message.headers)


def encode_events(events: Sequence[ConversionEvent]) -> Iterator[bytes]:
    """Bodies of messages, in order: one event as itself, several as a list (CloudEvents' JSON batch format)."""
    waiting: list[bytes] = []
    size = 0
    for event in events:
        body = event.model_dump_json(exclude_none=True).encode()
        if waiting and size + len(body) > MAX_EVENTS:
            yield _together(waiting)
            waiting, size = [], 0
        waiting.append(body)
        size += len(body) + 1
    if waiting:
        yield _together(waiting)


def decode_events(body: bytes, passed_over: PassedOver) -> Sequence[ConversionEvent]:
    """The inverse of :func:`encode_events`; never raises."""
    return readable(body, _EVENT, _EVENTS, passed_over)


def readable(
    body: bytes, one: TypeAdapter[_Event], several: TypeAdapter[list[_Event]], passed_over: PassedOver
) -> list[_Event]:
    """The events of one message without those that cannot be read: a newer version's may travel with an older one's."""
    try:
        return several.validate_json(body) if body.startswith(b"[") else [one.validate_json(body)]
    except ValidationError as error:
        if not body.startswith(b"[") or any(each["type"] == "json_invalid" for each in error.errors()):
            passed_over.unreadable(error)
            return []
    events = []
    for each in from_json(body):
        try:
            events.append(one.validate_python(each))
        except ValidationError as error:
            passed_over.unreadable(error)
    return events


def _together(bodies: Sequence[bytes]) -> bytes:
    return bodies[0] if len(bodies) == 1 else b"[" + b",".join(bodies) + b"]"


def bounded_attempts(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The first and the newest attempts, each failure's text cut, so that a message never outgrows the broker's limit."""
    if len(attempts) > MAX_ATTEMPTS:
        attempts = (attempts[0], *attempts[-(MAX_ATTEMPTS - 1) :])
    return tuple(each.model_copy(update={"failure": bounded_failure(each.failure)}) for each in attempts)


def bounded_failure(failure: Failure) -> Failure:
    """``failure`` with long texts cut."""
    details = {
        key[:100]: value[:300] if isinstance(value, str) else value for key, value in list(failure.details.items())[:20]
    }
    return failure.model_copy(update={"message": failure.message[:MAX_FAILURE_TEXT], "details": details})


def dead_letter_id(uid: str) -> str:
    """Deterministic: a consumer that dies between copy and settlement buries the same letter again, not a second one."""
    return hashlib.sha256(f"dead\n{uid}".encode()).hexdigest()[:24]


def encode_dead_letter(letter: DeadLetter, headers: Mapping[str, str]) -> WireMessage:
    """The letter as JSON; what an operator wants to see in the broker's own console stands in headers."""
    own = {DEAD_LETTER_ID: letter.id, DEAD_LETTER_CODE: letter.failure.code}
    carried = {name: value for name, value in headers.items() if not name.startswith(_OWN)}
    return WireMessage(letter.model_dump_json().encode(), carried | own)


def decode_dead_letter(message: WireMessage, *, fallback: Failure, died_at: datetime) -> DeadLetter:
    """A letter out of the dead-letter queue.

    Messages that the broker itself moved there (or a person did) are no envelopes: they become a letter with ``fallback``
    as their failure, their request if there is one, else their raw body. Never raises.
    """
    if DEAD_LETTER_ID in message.headers:
        try:
            return DeadLetter.model_validate_json(message.body)
        except ValueError:  # pydantic's ValidationError is one
            return malformed_letter(message, "a dead letter that cannot be read", died_at=died_at)
    try:
        queued = decode(message)
    except MalformedMessageError as error:
        return malformed_letter(message, error.message, died_at=died_at)
    return letter_of(queued, fallback, died_at=died_at)


def letter_of(queued: Queued, failure: Failure, *, died_at: datetime, attempts: Sequence[Attempt] = ()) -> DeadLetter:
    """The letter that buries ``queued``; ``attempts`` instead of the ones it carries, if given."""
    told = attempts or queued.attempts
    published = queued.headers.get("traceparent", "")
    return DeadLetter(
        id=dead_letter_id(queued.uid),
        request=queued.request,
        failure=bounded_failure(failure),
        attempts=bounded_attempts(told),
        died_at=died_at,
        consumer=told[-1].consumer if told else "",
        trace_id=(told[-1].trace_id if told else "") or trace_id_of(published),
        traceparent=(told[-1].traceparent if told else "") or published,
    )


def malformed_letter(message: WireMessage, reason: str, *, died_at: datetime) -> DeadLetter:
    """The letter of a body that is no request."""
    traceparent = message.headers.get("traceparent", "")
    uid = message.headers.get(UID) or hashlib.sha256(message.body).hexdigest()[:32]
    return DeadLetter(
        id=dead_letter_id(uid),
        request=None,
        raw=message.body[:MAX_RAW].decode("utf-8", "backslashreplace")[:MAX_RAW],
        failure=Failure(code="malformed_message", kind="permanent", message=reason[:MAX_FAILURE_TEXT]),
        died_at=died_at,
        trace_id=trace_id_of(traceparent),
        traceparent=traceparent,
    )


def trace_id_of(traceparent: str) -> str:
    """The 32 hex digits in a W3C ``traceparent``, or nothing."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""


def _postponed(text: str) -> tuple[datetime, str] | None:
    at, _, code = text.partition(" ")
    found = _instant(at)
    return None if found is None else (found, code)


def _instant(text: str | None) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _count(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
