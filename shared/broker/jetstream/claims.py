"""Claims on JetStream: a message for each key in a stream in memory, put only where there is none.

It expires with the stream's age, so a holder puts it anew now and then, and removes it in the end. NATS tells nobody that a
message is gone: who waits looks again.
"""

from __future__ import annotations

import asyncio
import logging
import random

import nats.errors
import nats.js.errors

from shared.broker.cancellation import cancellable
from shared.broker.jetstream.link import NatsLink
from shared.broker.jetstream.topology import CLAIM_AGE, declare_claims

LOOK = 0.5
"""Seconds between two looks at what another holds, at least; twice as many at most."""
_TAKEN = {10071, 10164}
"""JetStream's err_code: the subject's last message is another than the expected one."""
_log = logging.getLogger(__name__)


class JetStreamClaims:
    """See :class:`shared.broker.transport.ClaimStore`."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    async def acquire(self, key: str, patience: float) -> _HeldClaim | None:
        subject = self._link.names.claim(key)
        clock = asyncio.get_running_loop().time
        until = clock() + patience
        await self._link.connected()
        while (sequence := await self._first(subject)) is None:
            left = until - clock()
            if left <= 0:
                return None
            await asyncio.sleep(min(left, random.uniform(LOOK, 2 * LOOK)))  # noqa: S311  the jitter needs no secrecy
        return _HeldClaim(self._link, subject, sequence)

    async def _first(self, subject: str) -> int | None:
        try:
            return await put(self._link, subject, 0)
        except nats.js.errors.NoStreamResponseError:  # a stream in memory goes with its server
            await cancellable(declare_claims(self._link.js, self._link.names, self._link.retention))
            return await put(self._link, subject, 0)


class _HeldClaim:
    def __init__(self, link: NatsLink, subject: str, sequence: int) -> None:
        self._link = link
        self._subject = subject
        self._refreshing = asyncio.create_task(self._refresh(sequence), name="claim")

    async def release(self) -> None:
        if self._refreshing.done():  # lost meanwhile: what is there now is another's
            return
        self._refreshing.cancel()
        await asyncio.gather(self._refreshing, return_exceptions=True)
        await self._link.js.purge_stream(self._link.names.claims, subject=self._subject)

    async def _refresh(self, held: int) -> None:
        """Until the claim is another's."""
        sequence: int | None = held
        while sequence is not None:
            await asyncio.sleep(CLAIM_AGE / 4)
            try:
                sequence = await put(self._link, self._subject, sequence)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                _log.debug("a claim could not be extended: %s", type(error).__name__)


async def put(link: NatsLink, subject: str, expected: int) -> int | None:
    """Put a message where the subject's last one is ``expected`` (0: there is none); its sequence, None where it is not."""
    headers = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
    try:
        return (await cancellable(link.js.publish(subject, b"", headers=headers))).seq
    except nats.js.errors.APIError as error:
        if error.err_code in _TAKEN:
            return None
        raise
