"""Harbor's CloudEvents payload format (since 2.8): CloudEvents 1.0 in structured mode, ``data`` is the Default ``event_data``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingress.webhooks.notice import MalformedWebhookError, Notice, instant, text
from ingress.webhooks.resource import pushes

SENDER = "harbor-cloudevents"
PUSH = "harbor.artifact.pushed"
OTHER_KINDS = frozenset(
    {
        "harbor.artifact.pulled",
        "harbor.artifact.deleted",
        "harbor.scan.completed",
        "harbor.scan.failed",
        "harbor.scan.stopped",
        "harbor.quota.exceeded",
        "harbor.quota.warned",
        "harbor.replication.status.changed",
        "harbor.tag_retention.finished",
    }
)


def parse(body: Mapping[str, Any]) -> Notice:
    """Raises:
    MalformedWebhookError: with the path of what is wrong.
    """
    if body.get("specversion") != "1.0":
        raise MalformedWebhookError("specversion", 'must be "1.0"')
    event_id = text(body.get("id"), "id", limit=256)
    source = text(body.get("source"), "source")
    kind = text(body.get("type"), "type", limit=256)
    for name, value in (("id", event_id), ("source", source), ("type", kind)):
        if not value:
            raise MalformedWebhookError(name, "is missing")
    request_id = text(body.get("requestid"), "requestid", limit=256)
    if kind != PUSH:
        reason = f"{kind} is not a push" if kind in OTHER_KINDS else "unknown event type"
        return Notice(SENDER, kind, ignored=reason, request_id=request_id)
    found = pushes(
        body.get("data"),
        "data",
        event_id=event_id,
        kind=kind,
        operator=text(body.get("operator"), "operator"),
        request_id=request_id,
        occurred_at=instant(body.get("time")),
    )
    return Notice(SENDER, kind, found, request_id=request_id)
