"""Dead letters as a JetStream stream: one subject a letter, so that adding twice stays one and removing is by sequence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.js.errors
from nats.js.client import JetStreamContext

from shared.broker.jetstream.link import NatsLink
from shared.broker.jetstream.reader import messages_of
from shared.broker.jetstream.work import wire_of
from shared.broker.wire import WireMessage, decode_dead_letter
from shared.messages import DeadLetter, Failure, is_dead_letter_id

_BY_HAND = Failure(code="unclassified", kind="permanent", message="put into the dead-letter stream by hand")
_WRONG_LAST_SEQUENCE = 10071
_NO_MESSAGE = {10037, 10043, 10057}


@dataclass(frozen=True, slots=True)
class _TakenLetter:
    link: NatsLink
    letter: DeadLetter
    sequence: int

    @property
    def token(self) -> str:
        return f"{self.letter.id}-{self.sequence}"

    async def remove(self) -> bool:
        async def delete(js: JetStreamContext) -> bool:
            try:
                return await js.delete_msg(self.link.names.dead, self.sequence)
            except nats.js.errors.APIError as error:
                if error.err_code in _NO_MESSAGE or error.code == 404:
                    return False
                raise

        return await self.link.call(delete)


class JetStreamDeadLetters:
    """See :class:`shared.broker.transport.DeadLetterStore`."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    async def put(self, letter: DeadLetter, message: WireMessage) -> None:
        # "The subject has no message": the server itself refuses a second one.
        headers = {**message.headers, "Nats-Expected-Last-Subject-Sequence": "0"}

        async def publish(js: JetStreamContext) -> None:
            try:
                await js.publish(self._subject(letter.id), message.body, headers=headers)
            except nats.js.errors.APIError as error:
                if error.err_code != _WRONG_LAST_SEQUENCE:
                    raise

        await self._link.call(publish)

    async def snapshot(self, wanted: Callable[[DeadLetter], bool]) -> Sequence[DeadLetter]:
        letters = []
        async for message in messages_of(self._link, self._link.names.dead, follow=False):
            letter = decode_dead_letter(wire_of(message), fallback=_BY_HAND, died_at=message.metadata.timestamp)
            if wanted(letter):
                letters.append(letter)
        return letters

    @asynccontextmanager
    async def take(self, dead_letter_id: str) -> AsyncIterator[_TakenLetter | None]:
        if not is_dead_letter_id(dead_letter_id):  # it becomes part of a subject
            yield None
            return
        try:
            raw = await self._link.call(
                lambda js: js.get_last_msg(self._link.names.dead, self._subject(dead_letter_id))
            )
        except nats.js.errors.NotFoundError:
            yield None
            return
        wire = WireMessage(raw.data or b"", dict(raw.headers or {}))
        letter = decode_dead_letter(wire, fallback=_BY_HAND, died_at=datetime.now(UTC))
        yield _TakenLetter(self._link, letter, raw.seq or 0)

    async def count(self) -> int:
        info = await self._link.call(lambda js: js.stream_info(self._link.names.dead))
        return info.state.messages

    def _subject(self, dead_letter_id: str) -> str:
        return self._link.names.letter(dead_letter_id)
