"""Harbor's Default payload format: ``{"type", "occur_at", "operator", "event_data"}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingress.webhooks.notice import MalformedWebhookError, Notice, instant, text
from ingress.webhooks.resource import pushes

SENDER = "harbor"
PUSH = "PUSH_ARTIFACT"
OTHER_KINDS = frozenset(
    {
        "PULL_ARTIFACT",
        "DELETE_ARTIFACT",
        "SCANNING_COMPLETED",
        "SCANNING_FAILED",
        "SCANNING_STOPPED",
        "QUOTA_EXCEED",
        "QUOTA_WARNING",
        "REPLICATION",
        "TAG_RETENTION",
    }
)


def parse(body: Mapping[str, Any], event_id: str, *, sender: str = SENDER) -> Notice:
    """``event_id``: the hash of the body, the only identity that this format has.

    Raises:
        MalformedWebhookError: with the path of what is wrong.
    """
    kind = text(body.get("type"), "type", limit=128)
    if not kind:
        raise MalformedWebhookError("type", "is missing")
    if kind != PUSH:
        known = kind in OTHER_KINDS
        return Notice(sender, kind, ignored=f"{kind} is not a push" if known else "unknown event type")
    found = pushes(
        body.get("event_data"),
        "event_data",
        event_id=event_id,
        kind=kind,
        operator=text(body.get("operator"), "operator"),
        request_id="",
        occurred_at=instant(body.get("occur_at")),
    )
    return Notice(sender, kind, found)
