"""The benchmarks, in the order in which they run and are reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import (
    concurrency,
    dead_letters,
    estargz_layer,
    image_conversion,
    ingest,
    nydus_layer,
    observing,
    scaling,
)
from benchmarks.bench import Bench
from benchmarks.charts import Chart


@dataclass(frozen=True)
class Part:
    """``measure`` gives JSON, ``render`` makes Markdown and charts of it: a report can be written without measuring."""

    title: str
    measure: Callable[[Bench], dict[str, Any]]
    render: Callable[[dict[str, Any]], tuple[str, list[Chart]]]


PARTS: Mapping[str, Part] = {
    "estargz_layer": Part(
        "eStargz, layer by layer, beside the Go reference builder", estargz_layer.measure, estargz_layer.render
    ),
    "estargz_extremes": Part(
        "eStargz, 100,000 small files and a few huge ones", estargz_layer.measure_extremes, estargz_layer.render
    ),
    "zstdchunked_layer": Part(
        "zstd:chunked, layer by layer, beside the Go reference builder",
        estargz_layer.measure_zstdchunked,
        estargz_layer.render_zstdchunked,
    ),
    "nydus_layer": Part("Nydus, layer by layer, beside nydus-image", nydus_layer.measure, nydus_layer.render),
    "image_conversion": Part(
        "Whole images, from registry to registry", image_conversion.measure, image_conversion.render
    ),
    "concurrency": Part("Several conversions at a time", concurrency.measure, concurrency.render),
    "scaling_bytes": Part("Growth with bytes, and memory", scaling.measure_bytes, scaling.render_bytes),
    "scaling_entries": Part("Growth with entries", scaling.measure_entries, scaling.render_entries),
    "scaling_images": Part("Growth with images on a common base", scaling.measure_images, scaling.render_images),
    "tracing": Part("What tracing costs", observing.measure_tracing, observing.render_tracing),
    "history": Part("The read model of 100,000 conversions", observing.measure_history, observing.render_history),
    "dead_letters": Part("Dead letters on RabbitMQ in numbers", dead_letters.measure, dead_letters.render),
    "ingest": Part("Webhooks, from request to confirmed message", ingest.measure, ingest.render),
}
