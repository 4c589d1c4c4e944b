"""CNCF distribution's notifications: an envelope ``{"events": [...]}`` (distribution, docs/about/notifications.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ingress.webhooks.notice import MalformedWebhookError, Notice, instant, items, mapping, text
from shared.errors import PermanentError
from shared.oci.digest import Digest
from shared.oci.media_types import is_manifest
from shared.oci.reference import Reference, is_registry, is_repository, is_tag
from shared.planning import PushEvent

SENDER = "distribution"
MAXIMUM_EVENTS = 1000


def parse(body: Mapping[str, Any]) -> Notice:
    """Pushed manifests; blobs, pulls, mounts and deletions are left out.

    Raises:
        MalformedWebhookError: with the path of what is wrong.
    """
    events = items(body.get("events"), "events")
    if len(events) > MAXIMUM_EVENTS:
        raise MalformedWebhookError("events", f"must hold at most {MAXIMUM_EVENTS}")
    found = tuple(
        push
        for number, event in enumerate(events)
        if (push := _push(mapping(event, where := f"events[{number}]"), where))
    )
    return Notice(SENDER, "notification", found, ignored="" if found else "no pushed manifest among the events")


def _push(event: Mapping[str, Any], path: str) -> PushEvent | None:
    action = text(event.get("action"), f"{path}.action", limit=64)
    if not action:
        raise MalformedWebhookError(f"{path}.action", "is missing")
    if action != "push":
        return None
    target = mapping(event.get("target"), f"{path}.target")
    media_type = text(target.get("mediaType"), f"{path}.target.mediaType")
    if not is_manifest(media_type):
        return None  # a layer or a config
    request = mapping(event.get("request") or {}, f"{path}.request")
    actor = mapping(event.get("actor") or {}, f"{path}.actor")
    event_id = text(event.get("id"), f"{path}.id", limit=256)
    if not event_id:
        raise MalformedWebhookError(f"{path}.id", "is missing")
    return PushEvent(
        event_id=event_id,
        kind=action,
        reference=_reference(target, request, path),
        operator=text(actor.get("name"), f"{path}.actor.name"),
        request_id=text(request.get("id"), f"{path}.request.id"),
        occurred_at=instant(event.get("timestamp")),
    )


def _reference(target: Mapping[str, Any], request: Mapping[str, Any], path: str) -> Reference:
    host = text(request.get("host"), f"{path}.request.host") or _netloc(text(target.get("url"), f"{path}.target.url"))
    if not is_registry(host):
        raise MalformedWebhookError(f"{path}.request.host", "must be the registry's host[:port]")
    repository = text(target.get("repository"), f"{path}.target.repository")
    if not is_repository(repository):
        raise MalformedWebhookError(f"{path}.target.repository", "is not a repository name")
    tag = text(target.get("tag"), f"{path}.target.tag")
    if tag and not is_tag(tag):
        raise MalformedWebhookError(f"{path}.target.tag", "is not a valid tag")
    try:
        digest = Digest(text(target.get("digest"), f"{path}.target.digest"))
    except PermanentError as error:
        raise MalformedWebhookError(f"{path}.target.digest", error.message) from error
    return Reference(host.lower(), repository, tag or None, digest)


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
