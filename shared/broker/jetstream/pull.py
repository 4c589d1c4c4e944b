"""Pull requests to one JetStream consumer.

nats-py's ``fetch`` waits for its whole batch or its time-out, and loses count of what arrives late; here every message is
handed on as it comes, and a request that is open is never doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

_GRACE = 2.0
"""Seconds after a request's own expiry until it counts as lost (reconnect, restarted server)."""
_STATUS = "Status"
_HEARTBEAT = "100"


class Puller:
    """Messages of one consumer, by request.

    Args:
        stale_after: seconds after which a message that waited here unseen is dropped, because the server has given it to
            someone else meanwhile.
    """

    def __init__(self, client: Client, stream: str, consumer: str, *, stale_after: float) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._stale_after = stale_after
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._arrived: deque[tuple[float, Msg]] = deque()
        self._changed = asyncio.Event()
        self._outstanding = 0
        self._waits = self._interrupted = False
        self._deadline = 0.0
        self.last_status = ""

    def interrupt(self) -> None:
        """Let :meth:`take` return now. Its request goes on waiting at the server, and what answers it is the next to be taken."""
        self._interrupted = True
        self._changed.set()

    async def close(self) -> list[Msg]:
        """Stop; returns what arrived and nobody took, and is still ours."""
        if self._subscription is not None:
            # To the end of what the server has sent by now: to unsubscribe throws that away, and the server counts it as delivered.
            # Where the connection is gone, so is the subscription.
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
        unseen: list[Msg] = []
        while (message := self._fresh()) is not None:
            unseen.append(message)
        return unseen

    async def take(self, batch: int, wait: float) -> Msg | None:
        """The next message, or None when the consumer has none within ``wait`` seconds (0: none at this moment).

        Raises:
            nats.errors.Error: the connection is closed.
        """
        if self._subscription is None:
            self._subscription = await self._client.subscribe(self._inbox, cb=self._on_message)
        self._interrupted = False
        if not self._arrived:
            if not self._outstanding:
                await self._request(batch, wait)
            elif self._waits and not wait and time.monotonic() < self._deadline:
                return None  # the server would have answered
        while not (message := self._fresh()) and self._outstanding and not self._interrupted:
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                self._outstanding = 0
        return message

    def _fresh(self) -> Msg | None:
        while self._arrived:
            at, message = self._arrived.popleft()
            if time.monotonic() - at < self._stale_after:
                return message
        return None

    async def _request(self, batch: int, wait: float) -> None:
        if not self._client.is_connected:
            await asyncio.sleep(0.05)
            return
        request: dict[str, int | bool] = {"batch": batch}
        if wait:
            request["expires"] = int(wait * 1e9)
        else:
            request["no_wait"] = True
        self._outstanding, self._waits = batch, wait > 0
        self._deadline = time.monotonic() + wait + _GRACE
        self.last_status = ""
        await self._client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox)

    async def _on_message(self, message: Msg) -> None:
        if message.reply.startswith("$JS.ACK."):
            self._arrived.append((time.monotonic(), message))
            self._outstanding = max(0, self._outstanding - 1)
        else:
            status = (message.headers or {}).get(_STATUS, "")
            if status == _HEARTBEAT:
                return
            self.last_status = status  # 404 none, 408 expired, 409 consumer deleted or server leaving, 503 nobody there
            self._outstanding = 0
        self._changed.set()
