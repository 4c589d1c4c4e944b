"""Dead-letter operations over any transport's store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from shared.broker.api import DeadLetterFilter, Headers
from shared.broker.cancellation import finish
from shared.broker.transport import TakenLetter, Transport
from shared.broker.wire import Queued, encode, encode_dead_letter
from shared.errors import PermanentError
from shared.messages import ConversionRequest, DeadLetter


def matches(letter: DeadLetter, where: DeadLetterFilter, now: datetime) -> bool:
    """Whether all conditions hold. A letter without a request has no repository and no tag: only ``*`` matches those."""
    request = letter.request
    repository = request.source.repository if request else ""
    if where.repository and not (
        fnmatchcase(request.ref if request else "", where.repository) or fnmatchcase(repository, where.repository)
    ):
        return False
    if where.tag and not fnmatchcase(request.tag if request else "", where.tag):
        return False
    if where.code and not fnmatchcase(letter.failure.code, where.code):
        return False
    age = (now - letter.died_at).total_seconds()
    if where.older_than_seconds is not None and age <= where.older_than_seconds:
        return False
    if where.newer_than_seconds is not None and age >= where.newer_than_seconds:
        return False
    return not where.ids or letter.id in where.ids


class DeadLetterBox:
    """A :class:`shared.broker.api.DeadLetters`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, where: DeadLetterFilter | None = None) -> AsyncIterator[DeadLetter]:
        wanted = where or DeadLetterFilter()
        now = datetime.now(UTC)
        for letter, _message in await self._transport.dead.snapshot():
            if matches(letter, wanted, now):
                yield letter

    async def get(self, dead_letter_id: str) -> DeadLetter | None:
        async for letter in self.list(DeadLetterFilter(ids=frozenset({dead_letter_id}))):
            return letter
        return None

    async def replay(self, dead_letter_id: str, headers: Headers | None = None) -> ConversionRequest | None:
        async with self._transport.dead.take(dead_letter_id) as taken:
            return None if taken is None else await finish(self._publish_again(taken, dict(headers or {})))

    async def _publish_again(self, taken: TakenLetter, headers: dict[str, str]) -> ConversionRequest | None:
        letter = taken.letter
        if letter.request is None:
            raise PermanentError(
                f"dead letter {letter.id} holds no conversion request (its body could not be parsed): discard it",
                code="not_replayable",
            )
        request = letter.request.model_copy(update={"replay_of": letter.id, "replayed_trace": letter.traceparent})
        # ``token`` names this very entry: two processes that replay it at once publish one message, while the same letter
        # imported again later is another entry.
        await self._transport.publish(
            encode(Queued(request=request, headers=headers)), request.priority, deduplicate=f"replay-{taken.token}"
        )
        return request if await taken.remove() else None

    async def discard(self, dead_letter_id: str) -> bool:
        async with self._transport.dead.take(dead_letter_id) as taken:
            return taken is not None and await finish(taken.remove())

    async def add(self, letter: DeadLetter) -> None:
        headers = {"traceparent": letter.traceparent} if letter.traceparent else {}
        await self._transport.dead.put(letter, encode_dead_letter(letter, headers))
