"""Confirmed publishes into the work stream, many at once: the client library's own request costs several times as much.

One subscription takes every confirm; a publish is one message out, one future, one message in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import nats.errors
import orjson
from nats.aio.msg import Msg

from shared.broker.jetstream.link import NatsLink
from shared.broker.transport import unavailable
from shared.time_limit import TimeLimit

_NOT_READY = 0.05
"""Seconds until the next try where nobody answers for the stream yet."""
_NO_LEADER = 503


class Publisher:
    """One for each connection."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._limit = TimeLimit(link.timeout)
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._number = 0
        self._inbox = ""
        self._lock = asyncio.Lock()

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Return once the stream has the message on disk.

        Raises:
            TransientError: ``broker_unavailable``, within the link's time-out.
        """
        try:
            with self._limit():
                while True:
                    answer = await self._ask(subject, body, dict(headers))
                    if _confirms(answer):
                        return
                    if not answer.data:  # nobody listens on the subject; ``Status: 503`` says so
                        self._link.missed()
                    await asyncio.sleep(_NOT_READY)
        except TimeoutError as error:
            raise self._link.late() from error
        except (nats.errors.Error, OSError) as error:
            raise unavailable(f"NATS: {type(error).__name__}") from error

    async def _ask(self, subject: str, body: bytes, headers: dict[str, str]) -> Msg:
        client = await self._link.connected()
        if not self._inbox:
            async with self._lock:
                if not self._inbox:
                    inbox = client.new_inbox()
                    await client.subscribe(f"{inbox}.*", cb=self._answered)
                    self._inbox = inbox
        self._number += 1
        token = str(self._number)
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = answer
        try:
            await client.publish(subject, body, reply=f"{self._inbox}.{token}", headers=headers)
            return await answer
        finally:
            del self._waiting[token]

    async def _answered(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)


def _confirms(answer: Msg) -> bool:
    """False where it is too early to ask."""
    if not answer.data:
        return False
    try:
        told: dict[str, Any] = orjson.loads(answer.data)
    except orjson.JSONDecodeError as error:
        raise unavailable("JetStream's confirm cannot be read") from error
    refusal: dict[str, Any] | None = told.get("error")
    if refusal is None:
        return "seq" in told
    if refusal.get("code") == _NO_LEADER:
        return False
    raise unavailable(f"JetStream does not take the message: {refusal.get('description')}")
