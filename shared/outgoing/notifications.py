"""Telling others how conversions end: outgoing webhooks, and a label on the source artifact in Harbor.

Exactly one process tells of a conversion: the consumer that ended it, by giving its :class:`Notifier` to the event reporter as
a listener. Replays are told when a consumer takes them up. Nothing here ever holds up a conversion or its acknowledgement.

Webhooks are CloudEvents 1.0 in structured mode, signed as the Standard Webhooks specification has it: ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature: v1,<base64 HMAC-SHA256 of "id.timestamp.body">``. Receivers refuse old timestamps and
treat the id as the key for duplicates.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
from yarl import URL

from shared.errors import PermanentError
from shared.events import TYPE_PREFIX, ConversionEvent
from shared.oci.reference import normal_registry
from shared.outgoing.harbor_api import HarborApi
from shared.outgoing.http import call, create_session
from shared.outgoing.outbox import FIRST_DELAY, Outbox
from shared.settings.model import Notification, Settings
from shared.telemetry.metrics import Metrics


class Notifier:
    """``EventReporter``'s listener: call it with every event; it picks what somebody wants to know."""

    def __init__(self, routes: list[tuple[frozenset[str], Outbox[ConversionEvent]]]) -> None:
        self._routes = routes

    @classmethod
    @asynccontextmanager
    async def from_settings(
        cls, settings: Settings, metrics: Metrics, *, first_delay: float = FIRST_DELAY
    ) -> AsyncIterator[Notifier]:
        """A running one; at the end, what waits gets a few more seconds. Only configured addresses are ever contacted."""
        async with AsyncExitStack() as stack:
            routes: list[tuple[frozenset[str], Outbox[ConversionEvent]]] = []
            labels = {host: harbor for host, harbor in settings.harbor.items() if harbor.label}
            if settings.notifications or labels:
                session = await stack.enter_async_context(create_session())
                for target in settings.notifications:
                    hook = _Webhook(target, session)
                    outbox = Outbox(hook.name, hook.send, metrics, first_delay=first_delay)
                    routes.append((frozenset(target.events), outbox))
                for host, harbor in labels.items():
                    labeller = _Labeller(host, HarborApi(harbor, session), harbor.label)
                    outbox = Outbox(f"label at {host}", labeller.send, metrics, first_delay=first_delay)
                    routes.append((frozenset({"succeeded"}), outbox))
            for _, outbox in routes:
                await stack.enter_async_context(outbox.running())
            yield cls(routes)

    def __call__(self, event: ConversionEvent) -> None:
        """Queue what is wanted of it; never waits, never raises."""
        told = _told(event)
        if told is None:
            return
        for kinds, outbox in self._routes:
            if told.kind in kinds:
                outbox.put(told)


def _told(event: ConversionEvent) -> ConversionEvent | None:
    if event.kind in {"succeeded", "failed", "skipped", "cancelled"}:
        return event
    request = event.data.request
    if event.kind == "started" and request is not None and request.replay_of and event.data.attempt == 1:
        return event.model_copy(update={"type": f"{TYPE_PREFIX}replayed"})
    return None


class _Webhook:
    def __init__(self, target: Notification, session: aiohttp.ClientSession) -> None:
        self._url = URL(target.url.get_secret_value())
        self._secret = _key(target.secret.get_secret_value()) if target.secret else b""
        self._proxy = None if target.proxy is None else target.proxy.get_secret_value()
        self._session = session
        self.name = f"notification to {self._url.host}"

    async def send(self, event: ConversionEvent) -> None:
        body = event.model_dump_json(exclude_none=True).encode()
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "webhook-id": event.id,
            "webhook-timestamp": timestamp,
        }
        if event.traceparent:
            headers["traceparent"] = event.traceparent
        if self._secret:
            headers["webhook-signature"] = sign(self._secret, event.id, timestamp, body)
        await call(self._session, "POST", self._url, body=body, headers=headers, proxy=self._proxy)


class _Labeller:
    def __init__(self, host: str, harbor: HarborApi, label: str) -> None:
        self._host, self._harbor, self._label = normal_registry(host), harbor, label

    async def send(self, event: ConversionEvent) -> None:
        request = event.data.request
        if request is not None and normal_registry(request.source.registry) == self._host:
            await self._harbor.label_artifact(request.source, self._label)


def sign(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The ``webhook-signature`` of a message."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()


def _key(secret: str) -> bytes:
    """``whsec_<base64>`` as the specification writes secrets; anything else is taken as it is."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise PermanentError(
                "notifications: a secret after whsec_ is not base64", code="invalid_configuration"
            ) from None
    return secret.encode()
