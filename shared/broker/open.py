"""From ``broker.url`` to an open broker: the only place that knows which transports exist."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from shared.broker.api import Broker
from shared.broker.memory import MemoryServer, open_memory
from shared.broker.queue import QueueBroker
from shared.broker.transport import Transport
from shared.errors import PermanentError
from shared.settings.model import BrokerSettings, Settings

SERVER_FILE = "server.json"
"""In ``data_dir``: written when an embedded server has started for the first time."""


@asynccontextmanager
async def open_broker(settings: Settings) -> AsyncIterator[Broker]:
    """Connect to the broker that ``settings.broker.url`` names (whose file ``load_settings`` has read); closes it, and an embedded
    server with it, at exit.

    A broker that is away does not fail the start: operations raise ``TransientError`` until it is back.

    Raises:
        PermanentError: ``invalid_broker_url``; ``broker_refused`` (credentials); ``broker_mismatch`` (queues or streams of
            the same name with other settings); ``broker_missing`` (no nats-server for ``embedded:``).
    """
    broker = settings.broker
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(_transport(broker))
        yield QueueBroker(transport, delivery_limit=broker.delivery_limit)


def require_existing(settings: Settings) -> None:
    """For commands that look into a service's queues: opening an embedded broker elsewhere would start an empty one.

    Raises:
        PermanentError: ``broker_missing``: no broker has run in ``data_dir``, or ``memory:``, which is one process' own.
    """
    broker = settings.broker
    scheme = urlsplit(broker.url.get_secret_value()).scheme
    if scheme == "memory":
        raise PermanentError(
            "broker.url is memory: such a broker lives and ends with its process, nobody else can reach it",
            code="broker_missing",
        )
    if scheme == "embedded" and not (broker.data_dir / SERVER_FILE).exists():
        raise PermanentError(
            f"no embedded broker has run in {broker.data_dir.absolute()}: use the service's own configuration (--config), run "
            "this where the service runs, or name its folder by broker.data_dir (ICS_BROKER__DATA_DIR)",
            code="broker_missing",
        )


def _transport(settings: BrokerSettings) -> AbstractAsyncContextManager[Transport]:
    url = settings.url.get_secret_value()
    scheme = urlsplit(url).scheme
    # Transports are imported where they are chosen: a consumer on RabbitMQ does not load NATS' client.
    if scheme == "memory":
        return open_memory(MemoryServer())
    if scheme in {"nats", "tls", "embedded"}:
        from shared.broker.jetstream.topology import Retention  # noqa: PLC0415
        from shared.broker.jetstream.transport import open_jetstream  # noqa: PLC0415

        retention = Retention(settings.events_max_age, settings.replicas)
        if scheme == "embedded":
            from shared.broker.embedded import open_embedded  # noqa: PLC0415

            return open_embedded(
                settings.data_dir,
                prefix=settings.prefix,
                publish_timeout=settings.publish_timeout,
                retention=retention,
            )
        return open_jetstream(
            url, prefix=settings.prefix, publish_timeout=settings.publish_timeout, retention=retention, ca=settings.ca
        )
    if scheme in {"amqp", "amqps"}:
        from shared.broker.amqp.transport import open_amqp  # noqa: PLC0415

        return open_amqp(url, settings)
    raise PermanentError(
        "broker.url must begin with embedded:, nats://, tls://, amqp://, amqps:// or memory:", code="invalid_broker_url"
    )
