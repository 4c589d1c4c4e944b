"""Dead-letter operations over any transport's store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from shared.broker.api import DeadLetterFilter, Headers
from shared.broker.cancellation import finish
from shared.broker.transport import TakenLetter, Transport
from shared.broker.wire import Queued, encode, encode_dead_letter
from shared.errors import PermanentError
from shared.messages import ConversionRequest, DeadLetter
from shared.request_filter import matcher

_TURN = 100
"""Letters that are given in one turn of the loop."""


class _Died:
    """A letter as a filter looks at it. One without a request has no repository and no tag: only ``*`` matches those."""

    __slots__ = ("_letter", "code", "created", "driver", "priority", "ref", "tag")

    def __init__(self, letter: DeadLetter) -> None:
        self._letter, request = letter, letter.request
        self.ref, self.tag = (request.ref, request.tag) if request else ("", "")
        self.driver, self.priority = (request.driver.type, request.priority) if request else ("", "")
        self.code, self.created = letter.failure.code, letter.died_at.timestamp()

    @property
    def words(self) -> Iterator[str]:
        letter = self._letter
        yield letter.id.lower()
        yield letter.trace_id
        yield letter.failure.message.lower()
        if letter.request is not None:
            yield from letter.request.words


class DeadLetterBox:
    """A :class:`shared.broker.api.DeadLetters`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, where: DeadLetterFilter | None = None) -> AsyncIterator[DeadLetter]:
        wanted = where or DeadLetterFilter()
        matches = matcher(wanted)

        def fits(letter: DeadLetter) -> bool:
            return (not wanted.ids or letter.id in wanted.ids) and matches(_Died(letter))

        for number, letter in enumerate(await self._transport.dead.snapshot(fits), 1):
            yield letter
            if number % _TURN == 0:  # making tens of thousands of letters would hold the loop for seconds
                await asyncio.sleep(0)

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
