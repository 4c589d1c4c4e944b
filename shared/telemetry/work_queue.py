"""The work queue as spans name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from opentelemetry.util.types import AttributeValue

from shared.messages import Priority
from shared.settings.broker_url import server_urls
from shared.settings.model import Settings

_PORTS = {"amqp": 5672, "amqps": 5671, "nats": 4222, "tls": 4222}


@dataclass(frozen=True)
class WorkQueue:
    """``name`` of the live queue, and what OpenTelemetry's semantic conventions for messaging want to know of it."""

    name: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    def lane(self, priority: Priority) -> str:
        """The name of the queue in which work of this priority waits."""
        return self.name if priority == "live" else f"{self.name}.{priority}"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """``server.address`` and ``server.port`` where the configuration names one server: of a cluster nobody knows which."""
        name = f"{settings.broker.prefix}.conversions"
        servers = server_urls(settings.broker.url.get_secret_value())
        server = urlsplit(servers[0])
        scheme = server.scheme
        system = "rabbitmq" if scheme in {"amqp", "amqps"} else "memory" if scheme == "memory" else "nats"
        found: dict[str, AttributeValue] = {"messaging.system": system}
        if scheme in _PORTS and len(servers) == 1 and server.hostname:
            found |= {"server.address": server.hostname, "server.port": server.port or _PORTS[scheme]}
        return cls(name, found)
