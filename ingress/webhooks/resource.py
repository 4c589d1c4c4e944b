"""Harbor's ``event_data``: the artifacts that an event is about, the same in both of its formats."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ingress.webhooks.notice import MalformedWebhookError, items, mapping, text
from shared.errors import PermanentError
from shared.oci.digest import Digest
from shared.oci.reference import Reference, is_registry, is_repository, is_tag, parse_reference, parse_written
from shared.planning import PushEvent

MAXIMUM_RESOURCES = 64
"""Harbor sends one; more than this is no push."""


def pushes(
    data: Any, path: str, *, event_id: str, kind: str, operator: str, request_id: str, occurred_at: datetime | None
) -> tuple[PushEvent, ...]:
    """One event a resource.

    Raises:
        MalformedWebhookError: with the path of what is wrong.
    """
    body = mapping(data, path)
    resources = items(body.get("resources"), f"{path}.resources")
    if not resources:
        raise MalformedWebhookError(f"{path}.resources", "must not be empty")
    if len(resources) > MAXIMUM_RESOURCES:
        raise MalformedWebhookError(f"{path}.resources", f"must hold at most {MAXIMUM_RESOURCES}")
    repository = mapping(body.get("repository") or {}, f"{path}.repository")
    name = text(repository.get("repo_full_name"), f"{path}.repository.repo_full_name")
    references = [
        _reference(resource, f"{path}.resources[{number}]", name) for number, resource in enumerate(resources)
    ]
    return tuple([PushEvent(event_id, kind, each, operator, request_id, occurred_at) for each in references])


def _reference(described: Any, path: str, repository: str) -> Reference:
    resource = mapping(described, path)
    url = text(resource.get("resource_url"), f"{path}.resource_url")
    if not url:
        raise MalformedWebhookError(f"{path}.resource_url", "is missing")
    named = _parse(url, f"{path}.resource_url", repository)
    digest_text = text(resource.get("digest"), f"{path}.digest")
    tag = text(resource.get("tag"), f"{path}.tag") or named.tag or ""
    digest = named.digest
    if digest_text:
        try:
            digest = Digest(digest_text)
        except PermanentError as error:
            raise MalformedWebhookError(f"{path}.digest", error.message) from error
    if tag == digest_text or tag == str(named.digest):
        tag = ""
    if tag and not is_tag(tag):
        raise MalformedWebhookError(f"{path}.tag", "is not a valid tag")
    if not tag and digest is None:
        raise MalformedWebhookError(path, "names neither a tag nor a digest")
    return Reference(named.registry.lower(), named.repository, tag or None, digest)


def _parse(url: str, path: str, repository: str) -> Reference:
    """``host/path[:tag][@digest]``. Harbor always writes a host, even one without a dot, which ``repo_full_name`` gives away."""
    host, slash, rest = url.partition("/")
    known = bool(slash and repository) and rest.startswith(repository) and rest[len(repository) :][:1] in {"", ":", "@"}
    try:
        if known and is_registry(host) and is_repository(repository):
            return parse_written(url, default_tag=None)
        return parse_reference(url, default_tag=None)
    except PermanentError as error:
        raise MalformedWebhookError(path, error.message) from error
