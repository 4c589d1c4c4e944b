"""The streams and consumers, and why each is as it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.client import JetStreamContext

from shared.broker.jetstream.missing import missing
from shared.broker.transport import unavailable
from shared.errors import PermanentError, TransientError

ACK_WAIT = 15.0
"""Seconds without ``extend`` after which NATS hands a message to another consumer."""
DUPLICATE_WINDOW = 120.0
CLAIM_AGE = 10.0
"""Seconds that a claim outlives a holder that is gone."""
_ALREADY_EXISTS = {10058, 10013, 10148}
"""JetStream's err_code: stream name in use with another configuration; consumer name in use; consumer exists."""


@dataclass(frozen=True, slots=True)
class Names:
    """Streams and subjects of one prefix."""

    prefix: str

    @property
    def work(self) -> str:
        return f"{self.prefix}-conversions"

    @property
    def dead(self) -> str:
        return f"{self.prefix}-conversions-dead"

    @property
    def events(self) -> str:
        return f"{self.prefix}-events"

    @property
    def cancellations(self) -> str:
        return f"{self.prefix}-cancellations"

    def lane(self, lane: str) -> str:
        return f"{self.prefix}.conversions.{lane}"

    def retry(self, lane: str) -> str:
        return f"{self.prefix}.conversions.retry.{lane}"

    def letter(self, dead_letter_id: str) -> str:
        return f"{self.prefix}.dead.{dead_letter_id}"

    @property
    def event(self) -> str:
        return f"{self.prefix}.events"

    @property
    def cancellation(self) -> str:
        return f"{self.prefix}.cancellations"

    @property
    def claims(self) -> str:
        return f"{self.prefix}-claims"

    def claim(self, key: str) -> str:
        return f"{self.prefix}.claims.{key}"


@dataclass(frozen=True, slots=True)
class Retention:
    events_max_age: float
    """Seconds."""
    replicas: int


async def declare(js: JetStreamContext, names: Names, retention: Retention) -> Sequence[str]:
    """Idempotent. Returns what was not there.

    Raises:
        PermanentError: ``broker_mismatch``.
        TransientError: ``broker_unavailable``; beside it what the client raises.
    """
    replicas = retention.replicas
    streams = [
        StreamConfig(
            name=names.work,
            subjects=[names.lane("live"), names.lane("backfill"), names.retry("live"), names.retry("backfill")],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=DUPLICATE_WINDOW,
            discard=DiscardPolicy.NEW,
        ),
        StreamConfig(
            name=names.dead,
            subjects=[names.letter("*")],
            storage=StorageType.FILE,
            num_replicas=replicas,
            discard=DiscardPolicy.NEW,
        ),
    ]
    for name, subject in ((names.events, names.event), (names.cancellations, names.cancellation)):
        streams.append(
            StreamConfig(
                name=name,
                subjects=[subject],
                storage=StorageType.FILE,
                num_replicas=replicas,
                max_age=retention.events_max_age,
            )
        )
    consumers = [
        ConsumerConfig(
            durable_name=durable,
            filter_subject=subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            # No max_deliver: it would strand a message instead of moving it; the limit is kept by QueueBroker.
            # No max_ack_pending: consumers pull only as much as they have slots, and waiting retries count as pending.
            max_ack_pending=-1,
            num_replicas=replicas,
        )
        for durable, subject in (
            ("live", names.lane("live")),
            ("backfill", names.lane("backfill")),
            ("retry", names.retry("*")),
        )
    ]
    made = [f"stream {stream.name}" for stream in streams if await _stream(js, stream)]
    made += [f"consumer {each.durable_name}" for each in consumers if await _consumer(js, names.work, each)]
    return made


async def declare_claims(js: JetStreamContext, names: Names, retention: Retention) -> bool:
    """The claims' stream, apart from the rest: where it may not be, work goes on without. Returns whether it was not there.
    Raises what :func:`declare` raises.
    """
    return await _stream(
        js,
        StreamConfig(
            name=names.claims,
            subjects=[names.claim("*")],
            storage=StorageType.MEMORY,
            num_replicas=retention.replicas,
            max_age=CLAIM_AGE,
            max_msgs_per_subject=1,
            duplicate_window=CLAIM_AGE,
        ),
    )


async def _stream(js: JetStreamContext, config: StreamConfig) -> bool:
    """Whether it was not there.

    A stream that takes the place of a deleted one goes on with higher sequences than any of that: readers remember where they
    were, acknowledgements and removals name a message by its sequence, and a due retry's id is made of it.
    """
    absent = True
    try:
        first = (await js.stream_info(config.name or "")).config.first_seq
        absent = False
    except nats.js.errors.NotFoundError:
        first = time.time_ns() // 1000
    try:
        await js.add_stream(replace(config, first_seq=first))
    except nats.js.errors.APIError as error:
        if error.err_code not in _ALREADY_EXISTS:
            raise _declined(error, f"stream {config.name}") from error
        if absent:
            raise unavailable(f"JetStream: another process has made stream {config.name} this moment") from error
        try:  # it exists with other settings: retention age and replicas may be changed in place
            await js.update_stream(replace(config, first_seq=first))
        except nats.js.errors.APIError as refusal:
            raise _mismatched(refusal, f"stream {config.name}") from refusal
    return absent


async def _consumer(js: JetStreamContext, stream: str, config: ConsumerConfig) -> bool:
    """Whether it was not there."""
    absent = False
    try:
        await js.consumer_info(stream, config.durable_name or "")
    except nats.js.errors.NotFoundError:
        absent = True
    try:
        await js.add_consumer(stream, config)
    except nats.js.errors.APIError as error:
        if missing(error):
            raise unavailable(f"JetStream: stream {stream} was deleted this moment") from error
        if error.err_code not in _ALREADY_EXISTS:
            raise _declined(error, f"consumer {config.durable_name}") from error
        raise _mismatched(error, f"consumer {config.durable_name} of stream {stream}") from error
    return absent


def _mismatched(error: nats.js.errors.APIError, what: str) -> PermanentError | TransientError:
    return _unavailable(error, what) or PermanentError(
        f"NATS has a {what} with other settings that cannot be changed in place ({error.description}): "
        "set another broker.prefix, or empty and delete it",
        code="broker_mismatch",
    )


def _declined(error: nats.js.errors.APIError, what: str) -> PermanentError | TransientError:
    return _unavailable(error, what) or PermanentError(
        f"NATS refuses to make {what}: {error.description}", code="broker_mismatch"
    )


def _unavailable(error: nats.js.errors.APIError, what: str) -> TransientError | None:
    """A cluster that elects a leader says so, whatever it is asked."""
    if error.code is None or error.code < 500:
        return None
    return unavailable(f"JetStream cannot make {what}: {error.description}")
