"""What a measured process does with whole images: convert some, or only pull, only build, or only push one's layers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import usage
from benchmarks.images import LAYER
from benchmarks.layer_conversion import FileWriter, of_file, stream_of
from consumer.conversion import Converter
from consumer.progress import ConversionProgress
from drivers.catalogue import create_drivers
from drivers.estargz import EstargzDriver, EstargzOptions
from shared.messages import ConversionRequest, DriverChoice
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest
from shared.oci.reference import parse_reference
from shared.registry.client import RegistryClient
from shared.settings.model import Auth, Settings
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing

_PIECE = 256 << 10


def images(arguments: dict[str, Any]) -> dict[str, Any]:
    """Convert ``jobs`` (pairs of source and target), ``at_once`` of them at a time, as one consumer process does."""
    return _measured(lambda: _images(arguments))


def pull(arguments: dict[str, Any]) -> dict[str, Any]:
    """Read and verify every layer of ``source``, all at once, and drop it."""
    return _measured(lambda: _pull(arguments["source"]))


def convert(arguments: dict[str, Any]) -> dict[str, Any]:
    """Every file of ``layers`` into the file beside it in ``out``, all at once."""
    return _measured(lambda: _convert(arguments["layers"], arguments["out"]))


def push(arguments: dict[str, Any]) -> dict[str, Any]:
    """Every file of ``layers`` into the repository ``target``, all at once."""
    return _measured(lambda: _push(arguments["layers"], arguments["target"]))


def _measured(work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        before = usage.cpu_seconds()
        found = await work()
        return {**found, "cpu": usage.cpu_seconds() - before, "rss": usage.peak_bytes()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


@asynccontextmanager
async def _client(*references: str) -> AsyncIterator[tuple[RegistryClient, Settings]]:
    hosts = {parse_reference(reference).registry for reference in references}
    settings = Settings(auths={host: Auth(insecure=True) for host in hosts})
    async with RegistryClient.from_settings(settings) as client:
        yield client, settings


async def _images(arguments: dict[str, Any]) -> dict[str, Any]:
    jobs: list[tuple[str, str]] = arguments["jobs"]
    metrics = Metrics(process_metrics=False)
    tracing = Tracing.from_environment("ics-benchmark", enabled=True)
    slots = asyncio.Semaphore(arguments.get("at_once", 1))
    async with _client(*(each for job in jobs for each in job)) as (client, settings):
        converter = Converter(
            create_drivers(settings.limits),
            client,
            client,
            limits=settings.limits,
            cache=settings.cache,
            metrics=metrics,
        )

        async def one(number: int, source: str, target: str) -> tuple[int, float]:
            async with slots:
                start = time.perf_counter()
                request = ConversionRequest(
                    id=f"{number:032x}",
                    source=parse_reference(source),
                    target=parse_reference(target),
                    rule="benchmark",
                    driver=DriverChoice(type=arguments.get("driver", "estargz"), config={}),
                )
                converted = await converter.convert(request, ConversionProgress(tracing, metrics))
                return converted.result.layers_reused, time.perf_counter() - start

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number, *job)) for number, job in enumerate(jobs)]
        wall = time.perf_counter() - start
    tracing.shutdown()
    return {
        "wall": wall,
        "wall_with_spans_sent": time.perf_counter() - start,
        "reused": sum(task.result()[0] for task in tasks),
        "slowest": max(task.result()[1] for task in tasks),
    }


async def _pull(source: str) -> dict[str, Any]:
    reference = parse_reference(source)
    async with _client(source) as (client, _):
        start = time.perf_counter()
        manifest = await client.manifest(reference)
        assert isinstance(manifest, ImageManifest)

        async def one(layer: Descriptor) -> None:
            async with client.open_blob(reference, layer) as stream:
                async for _ in stream:
                    pass

        async with asyncio.TaskGroup() as group:
            for layer in manifest.layers:
                group.create_task(one(layer))
        return {"wall": time.perf_counter() - start}


async def _convert(layers: list[str], out: list[str]) -> dict[str, Any]:
    driver = EstargzDriver()
    start = time.perf_counter()

    async def one(layer: Path, target: Path) -> int:
        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
            yield stream_of(of_file(layer))

        with target.open("wb") as file:
            writer = FileWriter(file)
            source = Descriptor(LAYER, Digest("sha256:" + "0" * 64), 1)
            await driver.convert_layer(source, opened, writer, EstargzOptions())
            return writer.size

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(Path(a), Path(b))) for a, b in zip(layers, out, strict=True)]
    return {"wall": time.perf_counter() - start, "size": sum(task.result() for task in tasks)}


async def _push(layers: list[str], target: str) -> dict[str, Any]:
    reference = parse_reference(target)
    async with _client(target) as (client, _):
        start = time.perf_counter()

        async def one(layer: Path) -> None:
            async with client.upload(reference) as upload:
                with layer.open("rb") as file:
                    while data := file.read(_PIECE):
                        await upload.write(data)
                await upload.commit(LAYER)

        async with asyncio.TaskGroup() as group:
            for layer in layers:
                group.create_task(one(Path(layer)))
        return {"wall": time.perf_counter() - start}
