"""A converter over a store in memory, with a source pushed."""

from __future__ import annotations

from typing import Any

from consumer.conversion import Converter
from consumer.progress import ConversionProgress
from drivers.catalogue import create_drivers
from shared.messages import ConversionRequest, DriverChoice
from shared.oci.reference import Reference, parse_reference
from shared.settings.model import Cache, Limits
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing
from tests.images.small import SmallImage, push_image, small_image
from tests.watched_store import WatchedStore

REGISTRY = "harbor.example.com"
LIMITS = Limits(layer_size=1 << 24, layer_entries=10_000)


def source(tag: str = "v1", repository: str = "library/app") -> Reference:
    return parse_reference(f"{REGISTRY}/{repository}:{tag}")


def target(tag: str = "v1_esgz", repository: str = "library/app") -> Reference:
    return parse_reference(f"{REGISTRY}/{repository}:{tag}")


async def pushed(store: WatchedStore, number: int = 1, reference: Reference | None = None) -> SmallImage:
    image = small_image(number)
    await push_image(store, reference or source(), image)
    return image


def request(image: SmallImage | None = None, **changes: Any) -> ConversionRequest:
    reference = source()
    if image is not None:
        reference = reference.with_digest(image.manifest.digest)
    values: dict[str, Any] = {
        "id": "0" * 32,
        "source": reference,
        "target": target(),
        "driver": DriverChoice(type="estargz"),
        **changes,
    }
    return ConversionRequest(**values)


def converter(store: WatchedStore, *, cache: bool = False, limits: Limits = LIMITS, **changes: Any) -> Converter:
    return Converter(
        create_drivers(limits),
        store,
        store,
        limits=limits,
        cache=Cache(enabled=cache),
        metrics=Metrics(10, process_metrics=False),
        **changes,
    )


def progress() -> ConversionProgress:
    return ConversionProgress(Tracing.from_environment("test", enabled=False), Metrics(10, process_metrics=False))
