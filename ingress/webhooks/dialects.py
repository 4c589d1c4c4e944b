"""Which dialect a body speaks. Told by its keys, not by its Content-Type, which senders and proxies get wrong."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from ingress.webhooks import acceld, distribution, harbor_cloudevents, harbor_default
from ingress.webhooks.notice import MalformedWebhookError, Notice


def read_webhook(raw: bytes) -> Notice:
    """Raises:
    MalformedWebhookError: neither JSON nor any dialect's shape.
    """
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedWebhookError("", f"the body is not JSON: {error.msg} at offset {error.pos}") from error
    if not isinstance(body, dict):
        raise MalformedWebhookError("", "the body must be a JSON object")
    if "specversion" in body:
        return harbor_cloudevents.parse(body)
    if "events" in body and "type" not in body:
        return distribution.parse(body)
    if "occur_at" not in body:  # Harbor always tells when
        return acceld.parse(body)
    return harbor_default.parse(body, hashlib.sha256(raw).hexdigest()[:32])
