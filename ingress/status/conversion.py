"""One conversion as the read model keeps it: what lists and filters need in slots, the rest packed once it has settled.

A hundred thousand of these are held by every ingress replica, so strings that repeat (repositories, consumers, codes) are
shared, digests and trace ids are bytes, and attempts with their stages are compressed as soon as nothing changes them any more.
"""

from __future__ import annotations

import re
import sys
from operator import attrgetter
from typing import Any, Literal, get_args

import orjson
import zstandard

from ingress.status.attempt_record import UNDER_WAY, AttemptRecord, stages_of
from ingress.status.stored_event import StoredData, StoredEvent, StoredRequest, written_reference
from shared.broker.wire import trace_id_of

Open = Literal["queued", "converting", "lost", "retrying"]
"""What has not ended, and can be cancelled. ``lost``: sight of it; see :meth:`Conversion.lose_sight`."""
Settled = Literal["succeeded", "skipped", "failed", "cancelled", "discarded"]
Status = Literal[Open, Settled]
OPEN: tuple[Open, ...] = get_args(Open)
SETTLED: frozenset[Status] = frozenset(get_args(Settled))
STATUSES: tuple[Status, ...] = get_args(Status)

_TYPICAL = (
    b'[[["","host-7d9f8b6c5d-abcde/1",{},7.7,"transient","registry_unavailable",1,"succeeded",0.4,null,1,'
    b'[["resolve","",0.000012,0.080123,0],["pull","sha256:0123456789abcdef",0.731,0.913,9312345],'
    b'["convert","sha256:0123456789abcdef",0.731,0.913,9312345],["push","sha256:0123456789abcdef",0.731,0.913,9312345],'
    b'["manifest","",7.5,0.11,3120],["tag","",7.5,0.11,3120]],1760000000.0,"0123456789abcdef0123456789abcdef"]],'
    b'{"operator":"admin","event_id":"","harbor_request_id":"","platforms":["linux/amd64","linux/arm64"],'
    b'"options":{"estargz_compression_level":-1},"replays":[]}]'
)
"""What packed attempts look like: with it as a dictionary they take half the bytes."""
_DICTIONARY = zstandard.ZstdCompressionDict(_TYPICAL, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
_COMPRESSOR = zstandard.ZstdCompressor(level=1, dict_data=_DICTIONARY, write_checksum=False, write_dict_id=False)
_DECOMPRESSOR = zstandard.ZstdDecompressor(dict_data=_DICTIONARY)
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


_ATTEMPT = attrgetter(*AttemptRecord.__slots__)


class Conversion:
    """State of one request id; :meth:`apply` moves it on."""

    __slots__ = (
        "_live", "_packed", "_source_digest", "_target_digest", "_target_ref", "_target_tag", "_trace_id", "attempt", "code",
        "consumer", "created", "dead_letter_id", "driver", "finished", "id", "layers_reused", "layers_total", "priority",
        "reason", "ref", "retry_at", "rule", "run", "source_size", "started", "status", "tag", "target_size",
    )  # fmt: skip

    def __init__(self, request: StoredRequest, time: float) -> None:
        share = sys.intern
        source, tag, digest = written_reference(request["source"])
        target, target_tag, _ = written_reference(request["target"])
        driver = request["driver"]
        self.id = request["id"]
        self.ref = share(source)
        self.tag = share(tag)
        self._source_digest = _dense(digest)
        self._target_ref = share(target)
        self._target_tag = target_tag
        self.driver = share(driver["type"])
        self.rule = share(request.get("rule", "default"))
        self.priority = share(request.get("priority", "live"))
        self.status: Status = "queued"
        self.created = request["requested_at"].timestamp() or time
        self.started: float | None = None
        self.finished: float | None = None
        self.retry_at: float | None = None
        self.run = 1
        self.attempt = 0
        self.code = ""
        self.reason = ""
        self.consumer = ""
        self._trace_id: bytes | str = ""
        self.dead_letter_id = ""
        self._target_digest: bytes | str = ""
        self.source_size: int | None = None
        self.target_size: int | None = None
        self.layers_total: int | None = None
        self.layers_reused: int | None = None
        extra: dict[str, Any] = {
            "operator": request.get("operator", ""),
            "event_id": request.get("event_id", ""),
            "harbor_request_id": request.get("harbor_request_id", ""),
            "platforms": request.get("platforms", []),
            "options": driver.get("config", {}),
            "replays": [],
        }
        self._live: tuple[list[AttemptRecord], dict[str, Any]] | None = ([], extra)
        self._packed = b""

    @property
    def source_digest(self) -> str:
        return _digest_text(self._source_digest)

    @property
    def target(self) -> str:
        return f"{self._target_ref}:{self._target_tag}" if self._target_tag else self._target_ref

    @property
    def target_digest(self) -> str:
        return _digest_text(self._target_digest)

    @target_digest.setter
    def target_digest(self, digest: str) -> None:
        self._target_digest = _dense(digest)

    @property
    def trace_id(self) -> str:
        return self._trace_id if isinstance(self._trace_id, str) else self._trace_id.hex()

    @trace_id.setter
    def trace_id(self, trace_id: str) -> None:
        self._trace_id = bytes.fromhex(trace_id) if _TRACE_ID.fullmatch(trace_id) else trace_id

    @property
    def words(self) -> tuple[str, ...]:
        """What a filter's text is looked for in, in lower case: what a message can tell too."""
        name = f"{self.ref}:{self.tag}" if self.tag else self.ref
        return self.id, f"{name}@{self.source_digest}".lower(), self.target.lower()

    @property
    def settled(self) -> bool:
        return self.status in SETTLED

    @property
    def attempts(self) -> list[AttemptRecord]:
        """Oldest first."""
        return self._unpacked()[0]

    @property
    def extra(self) -> dict[str, Any]:
        """What only the detail shows: operator, ids of the event, platforms, options, ``replays`` (time and actor each),
        ``cancelling`` (time and actor).
        """
        return self._unpacked()[1]

    def apply(self, event: StoredEvent, kind: str, time: float) -> bool:
        """Move on by one event of this conversion; False when it changes nothing (a duplicate, an older one).

        ``kind`` and ``time`` (UNIX seconds) are the event's, which the caller has read already.
        """
        changed = self._apply(event, kind, time)
        if self._live is not None and self.status in SETTLED:
            attempts, extra = self._live
            packed = _COMPRESSOR.compress(orjson.dumps([list(map(_ATTEMPT, attempts)), extra]))
            self._packed = bytes(
                memoryview(packed)
            )  # a copy: what the compressor returns keeps room for the worst case
            self._live = None
        return changed

    def _apply(self, event: StoredEvent, kind: str, time: float) -> bool:
        data = event["data"]
        match kind:
            case "requested":
                if self.attempt == 0 and not self.trace_id:
                    self.trace_id = _trace_id(event)
                    return True
                if self.status == "cancelled" and self.finished is not None and time > self.finished:
                    self._queue_again()
                    return True
                return False
            case "started":
                return self._start(event, time)
            case "preempted":
                return self._preempt(data, time)
            case "retrying":
                return self._end(data, time, "retrying")
            case "succeeded" | "skipped" | "failed" as outcome:
                return self._end(data, time, outcome)
            case "cancelling":
                return self.ask_to_cancel(time, data.get("actor", ""))
            case "cancelled":
                return self._cancel(data, time)
            case "replayed":
                return self._replay(time, data.get("actor", ""))
            case "discarded":
                return self._discard(data, time)
        return False

    def _discard(self, data: StoredData, time: float) -> bool:
        """The letter of its failure is gone; where no event told of that failure, this one does."""
        attempts, extra = self._open()
        if self.status != "failed" and attempts:
            died_at = data.get("died_at")
            died = 0.0 if died_at is None else died_at.timestamp()
            if self.settled or died < attempts[-1].started or (self.status == "queued" and self.run > 1):
                return False
            self._end(data, died, "failed")
        extra["discarded_by"] = data.get("actor", "")
        self.status, self.dead_letter_id = "discarded", ""
        self.finished = self.finished or time
        return True

    def _replay(self, time: float, actor: str) -> bool:
        _, extra = self._open()
        if [time, actor] in extra["replays"]:
            return False
        extra["replays"].append([time, actor])
        if self.status in ("failed", "discarded"):  # else its start was told before it: publishers are not ordered
            self._queue_again()
        return True

    def _queue_again(self) -> None:
        self._open()[1].pop("cancelling", None)
        self.status, self.run, self.attempt = "queued", self.run + 1, 0
        self.finished, self.dead_letter_id, self.code, self.reason = None, "", "", ""

    def _start(self, event: StoredEvent, time: float) -> bool:
        data = event["data"]
        attempts, _ = self._open()
        if attempts and time <= attempts[-1].started:
            return False  # the stream promises at least once, and one order per publisher only
        if self.status in ("failed", "discarded", "cancelled"):
            self.run += 1
        if attempts and attempts[-1].outcome in UNDER_WAY:
            attempts[-1].outcome = "interrupted"  # its consumer vanished: the broker delivered again
        number = data.get("attempt", 1)
        record = AttemptRecord(self.run, number, time, sys.intern(data.get("consumer", "")), _trace_id(event))
        record.queue_seconds = data.get("queue_seconds")
        attempts.append(record)
        self.status, self.attempt, self.consumer, self.trace_id = "converting", number, record.consumer, record.trace_id
        self.started, self.finished, self.retry_at = time, None, None
        return True

    def lose_sight(self) -> None:
        """Nothing was heard of the running attempt for longer than one can take: its end was never told, or it waits unseen for
        another consumer. Whatever is told later counts.
        """
        attempts, _ = self._open()
        self.status = attempts[-1].outcome = "lost"

    def _preempt(self, data: StoredData, time: float) -> bool:
        attempts, _ = self._open()
        if not attempts or attempts[-1].outcome not in UNDER_WAY or attempts[-1].started > time:
            return False  # told again, or after the next attempt's start: publishers are not ordered
        attempts[-1].stop("preempted", data)
        self.status = "queued"
        return True

    def ask_to_cancel(self, time: float, actor: str) -> bool:
        """Somebody wants it to end; False if that was known."""
        _, extra = self._open()
        if extra.get("cancelling", (0.0, ""))[0] >= time:
            return False
        extra["cancelling"] = [time, actor]
        return True

    def _cancel(self, data: StoredData, time: float) -> bool:
        """Stopped, or found waiting: then there is no attempt to show."""
        attempts, extra = self._open()
        if self.status in ("succeeded", "skipped", "cancelled", "discarded"):
            return False  # told again; or the same message twice, of which the other was converted
        if attempts and attempts[-1].outcome in UNDER_WAY:
            if attempts[-1].consumer == data.get("consumer"):
                attempts[-1].stop("cancelled", data)
            else:
                attempts[-1].outcome = "interrupted"
        extra["cancelled_by"] = data.get("actor", "")
        self.status, self.reason = "cancelled", sys.intern(data.get("reason", ""))
        self.finished, self.retry_at, self.code, self.dead_letter_id = time, None, "", ""
        return True

    def _end(
        self, data: StoredData, time: float, outcome: Literal["retrying", "succeeded", "skipped", "failed"]
    ) -> bool:
        attempts, _ = self._open()
        number, trace_id = data.get("attempt", 1), data.get("trace_id", "")
        same = [a for a in attempts if a.run == self.run and a.number == number]
        ended = next((a for a in same if a.outcome in UNDER_WAY), None)
        duration = data.get("duration_seconds")
        if ended is None:
            if any(a.outcome == outcome for a in same):
                return False
            # Its start is not known: a message that could not be parsed, one that kills its consumers, a lost event.
            started = time - (duration or 0)
            ended = AttemptRecord(self.run, number, started, sys.intern(data.get("consumer", "")), trace_id)
            attempts.append(ended)
        ended.outcome = outcome
        ended.duration = duration if duration is not None else time - ended.started
        ended.retry_in = data.get("retry_in_seconds")
        ended.stages = stages_of(data)
        if failure := data.get("failure"):
            ended.code, ended.kind = failure["code"], failure["kind"]
            ended.message, ended.details = failure["message"], dict(failure.get("details", {}))
        self.consumer = ended.consumer or self.consumer
        self.attempt = max(self.attempt, number)
        self.trace_id = trace_id or self.trace_id
        self.started = self.started if self.started is not None else ended.started
        self.code = sys.intern(ended.code)
        self.reason = sys.intern(data.get("reason", ""))
        self.finished = None if outcome == "retrying" else time
        self.retry_at = time + (ended.retry_in or 0) if outcome == "retrying" else None
        self.dead_letter_id = data.get("dead_letter_id", "") if outcome == "failed" else ""
        if outcome == "skipped" and self.target_digest:
            self.status = "succeeded"  # the same push told twice: the second found the first's result up to date
        else:
            self.status = outcome
        if outcome == "succeeded":
            self.target_digest = data.get("target_digest", "")
            self.source_size, self.target_size = data.get("source_size"), data.get("target_size")
            self.layers_total, self.layers_reused = data.get("layers_total"), data.get("layers_reused")
        return True

    def _open(self) -> tuple[list[AttemptRecord], dict[str, Any]]:
        """Attempts and extra to be changed; :meth:`apply` packs them again."""
        if self._live is None:
            self._live, self._packed = self._unpacked(), b""
        return self._live

    def _unpacked(self) -> tuple[list[AttemptRecord], dict[str, Any]]:
        if self._live is not None:
            return self._live
        attempts, extra = orjson.loads(_DECOMPRESSOR.decompress(self._packed))
        return [AttemptRecord.from_list(values) for values in attempts], extra


def _trace_id(event: StoredEvent) -> str:
    return event["data"].get("trace_id") or trace_id_of(event.get("traceparent", ""))


def _dense(digest: str) -> bytes | str:
    """A SHA-256 digest as its bytes, which take half the memory of its text."""
    return bytes.fromhex(digest[7:]) if _SHA256.fullmatch(digest) else digest


def _digest_text(digest: bytes | str) -> str:
    return digest if isinstance(digest, str) else f"sha256:{digest.hex()}"
