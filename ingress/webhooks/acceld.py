"""What ``accelctl`` and scripts made for acceld send: Harbor's push event with little but ``resource_url`` in it.

Nothing in such a body tells one push from the next, and nobody repeats it by himself: whoever sends it again wants the tag
converted as it is now. So every body is an event of its own, which a hash of it (the same for ever) would not be.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from ingress.webhooks import harbor_default
from ingress.webhooks.notice import Notice
from shared.errors import PermanentError
from shared.oci.reference import parse_reference

SENDER = "acceld"


def parse(body: Mapping[str, Any]) -> Notice:
    """``resource_url`` is what people type: without a tag ``latest`` is meant, without a registry Docker Hub.

    Raises:
        MalformedWebhookError: with the path of what is wrong.
    """
    return harbor_default.parse(_completed(body), uuid.uuid4().hex, sender=SENDER)


def _completed(body: Mapping[str, Any]) -> Mapping[str, Any]:
    data = body.get("event_data")
    resources = data.get("resources") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(resources, list):
        return body  # what is wrong with it is told where it is read
    return {**body, "event_data": {**data, "resources": [_named(each) for each in resources]}}


def _named(resource: Any) -> Any:
    if not isinstance(resource, dict) or resource.get("tag") or resource.get("digest"):
        return resource
    try:
        return {**resource, "resource_url": str(parse_reference(resource["resource_url"]))}
    except (PermanentError, KeyError, TypeError):
        return resource
