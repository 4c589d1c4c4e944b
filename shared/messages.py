"""What travels through the broker: conversion requests, attempts, failures, dead letters.

JSON, versioned; ``content_type: application/json``; the W3C ``traceparent`` travels in the message's headers. Consumers
accept every version up to their own and refuse newer ones as malformed, so that a roll-back loses nothing.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import IcsError
from shared.oci.digest import Digest
from shared.oci.reference import Reference

VERSION = 1
Priority = Literal["live", "backfill"]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DriverChoice(Message):
    """Which driver converts, with its validated options as plain JSON."""

    type: str
    config: dict[str, Any] = Field(default_factory=dict)


class ConversionRequest(Message):
    """One source image to convert by one rule. Self-contained: a consumer needs no rule of its own to run it."""

    version: int = Field(default=VERSION, ge=1, le=VERSION)
    id: str
    """Deterministic: the same event, source digest and rule give the same id, see :func:`request_id`."""
    source: Reference
    """With the digest of the event; the tag too where the event named one."""
    target: Reference
    """Where the converted image goes; always with a tag."""
    rule: str = "default"
    driver: DriverChoice
    oci: bool = True
    """Docker media types become OCI ones."""
    platforms: tuple[str, ...] = ()
    """``os/architecture[/variant]``; empty means all."""
    requested_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    event_id: str = ""
    """The webhook's own id (CloudEvents id, or the hash of its body)."""
    harbor_request_id: str = ""
    operator: str = ""
    """Who pushed, as the webhook tells."""
    priority: Priority = "live"
    replay_of: str = ""
    """Dead letter id when this is a replay."""
    replayed_trace: str = ""
    """traceparent of the failed conversion, which the new trace links to."""

    @property
    def ref(self) -> str:
        """``registry/repository``: the proposal's ``ref`` label."""
        return f"{self.source.registry}/{self.source.repository}"

    @property
    def tag(self) -> str:
        """The proposal's ``tag`` label."""
        return self.source.tag or (self.source.digest.short if self.source.digest else "")

    @property
    def words(self) -> tuple[str, ...]:
        """What a filter's text is looked for in, in lower case."""
        return self.id, str(self.source).lower(), str(self.target).lower()


def request_id(event_id: str, source_digest: Digest | str, rule: str, target: Reference | str = "") -> str:
    """32 hex digits out of what makes a conversion the same conversion."""
    text = "\n".join((event_id, str(source_digest), rule, str(target)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Failure(Message):
    """Why an attempt failed."""

    code: str
    kind: Literal["transient", "permanent"]
    message: str
    details: dict[str, str | int | float] = Field(default_factory=dict)

    @classmethod
    def of(cls, error: IcsError) -> Failure:
        return cls(code=error.code, kind=error.kind, message=error.message, details=error.details)


class Attempt(Message):
    """One failed attempt, oldest first in lists."""

    number: int
    started_at: datetime
    duration_seconds: float
    consumer: str
    """``host/pid`` of the consumer."""
    failure: Failure
    trace_id: str = ""
    traceparent: str = ""
    """Of the attempt's span: the next attempt's span links to it."""


_DEAD_LETTER_ID = r"^[A-Za-z0-9_-]{1,200}$"


def is_dead_letter_id(text: str) -> bool:
    """Whether a dead letter can have this id; it is part of a queue's subject and of a URL's path."""
    return re.fullmatch(_DEAD_LETTER_ID, text) is not None


class DeadLetter(Message):
    """A conversion that failed for good, as a person finds it."""

    version: int = VERSION
    id: str = Field(pattern=_DEAD_LETTER_ID)
    """Stable handle for show, replay and discard."""
    request: ConversionRequest | None
    """None when the message could not be parsed; then ``raw`` holds it."""
    raw: str = ""
    """The unparsable body, cut at 64 KiB, non-UTF-8 bytes escaped."""
    failure: Failure
    attempts: tuple[Attempt, ...] = ()
    died_at: datetime
    consumer: str = ""
    trace_id: str = ""
    traceparent: str = ""
