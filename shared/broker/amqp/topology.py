"""The queues, and why each is as it is."""

from __future__ import annotations

from dataclasses import dataclass

from aio_pika.abc import AbstractChannel, ExchangeType
from pamqp.common import FieldValue

from shared.messages import Priority

Table = dict[str, FieldValue]

RETRY_STEPS = (1, 2, 5, 15, 60, 300, 900)
"""Seconds. A queue each, because messages of one queue expire in order: a short delay behind a long one would wait for it."""
_BACKSTOP = 20
"""Deliveries above our own limit after which RabbitMQ itself moves a message to the dead letters."""
_SMALL_SEGMENT = 1_000_000


@dataclass(frozen=True)
class Topology:
    """Names and arguments of everything that is declared."""

    prefix: str
    delivery_limit: int
    events_max_age: float
    replicas: int = 1

    def lane(self, lane: Priority) -> str:
        return f"{self.prefix}.conversions" if lane == "live" else f"{self.prefix}.conversions.backfill"

    def retry(self, lane: Priority, delay: float) -> str:
        """The queue with the shortest wait that is long enough; the longest, if none is."""
        step = next((step for step in RETRY_STEPS if step >= delay), RETRY_STEPS[-1])
        return f"{self.lane(lane)}.retry.{step}"

    @property
    def dead(self) -> str:
        return f"{self.prefix}.conversions.dead"

    @property
    def dead_exchange(self) -> str:
        return f"{self.prefix}.dead"

    @property
    def dead_lock(self) -> str:
        return f"{self.prefix}.conversions.dead.lock"

    @property
    def events(self) -> str:
        return f"{self.prefix}.events"

    @property
    def cancellations(self) -> str:
        return f"{self.prefix}.cancellations"

    def claim(self, key: str) -> str:
        return f"{self.prefix}.claim.{key}"

    async def declare(self, channel: AbstractChannel) -> None:
        """Idempotent. Raises ``ChannelPreconditionFailed`` where something of the name is different."""
        quorum: Table = {"x-queue-type": "quorum"}
        if self.replicas > 1:
            quorum["x-quorum-initial-group-size"] = self.replicas
        # At-least-once needs reject-publish: then neither a full nor a lost dead-letter queue costs a message.
        careful: Table = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        exchange = await channel.declare_exchange(self.dead_exchange, ExchangeType.FANOUT, durable=True)
        dead = await channel.declare_queue(
            self.dead, durable=True, arguments={**quorum, **_unlimited(await _version(channel))}
        )
        await dead.bind(exchange)
        for name in (self.lane("live"), self.lane("backfill")):
            await channel.declare_queue(
                name,
                durable=True,
                arguments={
                    **quorum,
                    **careful,
                    "x-dead-letter-exchange": self.dead_exchange,
                    "x-delivery-limit": self.delivery_limit + _BACKSTOP,
                },
            )
            for step in RETRY_STEPS:
                await channel.declare_queue(
                    f"{name}.retry.{step}",
                    durable=True,
                    arguments={
                        **quorum,
                        **careful,
                        "x-message-ttl": step * 1000,
                        "x-dead-letter-exchange": "",
                        "x-dead-letter-routing-key": name,
                    },
                )

    async def declare_stream(self, channel: AbstractChannel, name: str) -> None:
        """``events`` or ``cancellations``, apart from the work: conversions do not wait for their history."""
        arguments: Table = {"x-queue-type": "stream", "x-max-age": f"{max(1, int(self.events_max_age))}s"}
        if name == self.cancellations:
            # RabbitMQ drops whole segments alone, and cancellations would never fill one of its default size.
            arguments["x-stream-max-segment-size-bytes"] = _SMALL_SEGMENT
        await channel.declare_queue(name, durable=True, arguments=arguments)


async def _version(channel: AbstractChannel) -> str:
    """RabbitMQ's, as in ``3.10.8``; empty where it does not tell."""
    underlay = await channel.get_underlay_channel()
    told = underlay.connection.server_properties.get("version", b"")
    return told.decode() if isinstance(told, bytes) else str(told)


def _unlimited(version: str) -> Table:
    """Looking at dead letters hands them back, which counts as a delivery; from 4.0 on, queues have a limit by default."""
    major = version.partition(".")[0]
    return {"x-delivery-limit": -1} if major.isdigit() and int(major) >= 4 else {}
