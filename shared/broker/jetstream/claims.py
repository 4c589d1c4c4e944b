"""Claims on JetStream: a message for each key in a stream in memory, put only where there is none.

It expires with the stream's age, so a holder puts it anew now and then, and removes it in the end. NATS tells nobody that a
message is gone: who waits looks again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AbstractAsyncContextManager

import nats.errors
import nats.js.errors

from shared.broker.cancellation import cancellable
from shared.broker.jetstream.link import NatsLink
from shared.broker.jetstream.topology import CLAIM_AGE, declare_claims
from shared.errors import PermanentError, TransientError
from shared.instance import INSTANCE
from shared.unique import unique_id

LOOK = 0.5
"""Seconds between two looks at what another holds, at least; twice as many at most."""
_TRY = 1.0
"""Seconds that one put waits for its answer: what was sent to a leader that died is never answered."""
ELECTION = 10.0
"""Seconds that who waits goes on asking when nothing answers: a cluster needs up to nine to miss a leader and have another."""
_TAKEN = {10071, 10164}
"""JetStream's err_code: the subject's last message is another than the expected one."""
_NO_ROOM = {10023, 10028, 10047}
"""Of server or account, in memory: another try would not help."""
_log = logging.getLogger(__name__)
_FAILURES = (nats.errors.Error, OSError, TimeoutError, TransientError)
"""What may be over with the next try: a leader is elected, the client connects to another server."""


class JetStreamClaims:
    """See :class:`shared.broker.transport.ClaimStore`."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._declaring = asyncio.Lock()

    async def acquire(self, key: str, patience: float) -> _HeldClaim | None:
        subject = self._link.names.claim(key)
        uid = unique_id()
        clock = asyncio.get_running_loop().time
        answered = clock()
        until = answered + patience
        while True:
            try:
                async with permitted(self._link):
                    sequence = await self.put(subject, 0, uid)
            except _FAILURES as error:
                if _err_code(error) in _NO_ROOM or clock() - answered > ELECTION:
                    raise
            else:
                if sequence is not None:
                    return _HeldClaim(self, self._link, subject, sequence)
                answered = clock()
                if answered >= until:
                    return None
            pause = random.uniform(LOOK, 2 * LOOK)  # noqa: S311  the jitter needs no secrecy
            await asyncio.sleep(min(pause, max(LOOK / 4, until - clock())))

    async def put(self, subject: str, expected: int, uid: str) -> int | None:
        """See :func:`put`. Where the stream is missing it is declared: one in memory goes with its server."""
        try:
            return await put(self._link, subject, expected, uid)
        except nats.js.errors.NoStreamResponseError:
            async with self._declaring:
                try:
                    return await put(self._link, subject, expected, uid)  # declared for another meanwhile
                except nats.js.errors.NoStreamResponseError:
                    if await cancellable(declare_claims(self._link.js, self._link.names, self._link.retention)):
                        _log.info("NATS: declared stream %s", self._link.names.claims)
            return await put(self._link, subject, expected, uid)


class _HeldClaim:
    def __init__(self, store: JetStreamClaims, link: NatsLink, subject: str, sequence: int) -> None:
        self._store = store
        self._link = link
        self._subject = subject
        self._refreshing = asyncio.create_task(self._refresh(sequence), name="claim")

    async def release(self) -> None:
        if self._refreshing.done():  # lost meanwhile: what is there now is another's
            return
        self._refreshing.cancel()
        await asyncio.gather(self._refreshing, return_exceptions=True)
        async with permitted(self._link):
            await self._link.js.purge_stream(self._link.names.claims, subject=self._subject)

    async def _refresh(self, held: int) -> None:
        """Until the claim is another's."""
        sequence: int | None = held
        while sequence is not None:
            await asyncio.sleep(CLAIM_AGE / 4)
            sequence = await self._renewed(sequence)

    async def _renewed(self, sequence: int) -> int | None:
        uid = unique_id()
        while True:
            try:
                async with permitted(self._link):
                    extended = await self._store.put(self._subject, sequence, uid)
                    if extended is None:  # gone with its stream, perhaps: ours again where nobody has taken it
                        extended = await self._store.put(self._subject, 0, uid)
                    return extended
            except _FAILURES as error:
                _log.debug("a claim could not be extended: %s", type(error).__name__)
                await asyncio.sleep(LOOK)
            except PermanentError:  # refused meanwhile
                return None


def permitted(link: NatsLink) -> AbstractAsyncContextManager[None]:
    """Raises ``PermanentError`` at once where the user has no right to claims: there is no answer to wait for."""
    return link.permissions.needed(link.names.claims, link.names.claim(""))


async def put(link: NatsLink, subject: str, expected: int, uid: str) -> int | None:
    """Put a message where the subject's last one is ``expected`` (0: there is none); its sequence, None where it is not.

    Put again under the same ``uid``, since no answer came, it is still one message.
    """
    headers = {"Nats-Expected-Last-Subject-Sequence": str(expected), "Nats-Msg-Id": uid}
    async with asyncio.timeout(_TRY):
        await link.connected()  # what is published before is sent when it is, by then perhaps a claim of nobody
    try:
        message = link.js.publish(subject, INSTANCE.encode(), timeout=_TRY, headers=headers)
        return (await cancellable(message)).seq
    except nats.js.errors.APIError as error:
        if error.err_code in _TAKEN:
            return None
        raise


def _err_code(error: Exception) -> int | None:
    """JetStream's, of what it refused, if it did."""
    refusal = error.__cause__ if isinstance(error, TransientError) else error
    return refusal.err_code if isinstance(refusal, nats.js.errors.APIError) else None
