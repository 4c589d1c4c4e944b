"""A consumer's converter on a broker under test."""

from __future__ import annotations

from consumer.claims import LayerClaims
from consumer.conversion import Converter
from drivers.api import Result
from drivers.catalogue import create_drivers
from shared.broker.api import Broker
from shared.messages import ConversionRequest, DriverChoice
from shared.oci.reference import Reference
from shared.registry.client import RegistryClient
from shared.settings.model import Cache, Limits, Timeouts
from shared.telemetry.metrics import Metrics
from tests.unit.consumer.sharing import Base


async def convert(broker: Broker, client: RegistryClient, source: Reference, driver: str, base: Base) -> Result:
    """By a consumer of its own on ``broker``: nothing is shared in memory."""
    limits = Limits()
    job = ConversionRequest(
        id="0" * 32,
        source=source,
        target=source.with_tag(f"{source.tag}-{driver}"),
        driver=DriverChoice(type=driver, config={}),
    )
    consumer = Converter(
        create_drivers(limits),
        client,
        client,
        limits=limits,
        cache=Cache(),
        metrics=Metrics(process_metrics=False),
        claims=LayerClaims.of(broker, Timeouts(), Metrics(10, process_metrics=False)),
    )
    return (await consumer.convert(job, base.progress())).result
