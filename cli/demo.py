"""``ics demo``: the main job on this machine, from a push to a lazy read, with nothing to set up."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import orjson
import yaml
from aiohttp import ClientSession, ClientTimeout
from rich.console import Console
from rich.table import Table

from cli.demo_image import DemoLayer, push_demo_image, python_layers, total_size
from cli.devregistry.server import DevRegistry, serve_registry
from consumer.main import run_consumer
from drivers.catalogue import option_models
from drivers.estargz.reader import read_file, read_toc
from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from ingress.app import create_app
from ingress.server import serve
from shared.broker.api import Broker
from shared.broker.open import open_broker
from shared.errors import PermanentError
from shared.events import ConversionEvent
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest
from shared.oci.reference import Reference, parse_reference
from shared.registry.client import RegistryClient
from shared.settings.load import load_settings
from shared.settings.model import Settings
from shared.telemetry.logging import configure_logging
from shared.telemetry.metrics import Metrics
from shared.telemetry.tracing import Tracing

AUTHORIZATION = "Bearer demo"
LOG = "demo.log"
TIMEOUT = 300.0
"""Seconds for the conversion of the demo image; it takes a few."""


@dataclass(frozen=True)
class _LazyRead:
    """What reading one file out of the converted image cost."""

    path: str
    size: int
    fetched: int
    requests: int
    layer_size: int


async def run_demo(console: Console, *, keep: bool) -> None:
    began = perf_counter()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ics-demo-")))
        log = stack.enter_context((folder / LOG).open("w"))
        registry_host = await stack.enter_async_context(serve_registry(DevRegistry(folder / "registry")))
        config = _configuration(folder, registry_host)
        settings = load_settings(config, environ={}, option_models=option_models())
        stack.enter_context(configure_logging(settings.log, "demo", stream=log))
        console.print(f"[bold]1[/] development registry at {registry_host}, embedded NATS JetStream, ingress, consumer")
        broker = await stack.enter_async_context(open_broker(settings))
        await stack.enter_async_context(_service(settings, broker))
        store = await stack.enter_async_context(RegistryClient.from_settings(settings))

        layers = await asyncio.to_thread(python_layers)
        files, size = sum(layer.files for layer in layers), sum(layer.size for layer in layers)
        console.print(
            f"[bold]2[/] an image of this machine's Python: {len(layers)} layers, {files:,} files, {_mb(size)} of tar"
        )
        source = parse_reference(f"{registry_host}/demo/python:latest")
        manifest = await push_demo_image(store, source, layers)
        console.print(f"[bold]3[/] pushed as {source}, {_mb(total_size(manifest.layers))}; now Harbor's webhook")
        event = await _convert(console, settings, broker, source, manifest.digest)
        target = parse_reference(f"{registry_host}/demo/python:latest_esgz")
        proof = await _read_lazily(store, target, layers)
        seconds = perf_counter() - began
        _summary(console, source=source, target=target, event=event, proof=proof, seconds=seconds)
        if keep:
            await _keep(console, settings, config, source)


@asynccontextmanager
async def _service(settings: Settings, broker: Broker) -> AsyncIterator[None]:
    """Ingress and consumer in this process, as ``ics up`` runs them."""
    metrics, tracing, stop = Metrics(), Tracing.from_environment("ics-demo"), asyncio.Event()
    app = create_app(settings, broker, metrics=metrics, tracing=tracing)
    tasks = [
        asyncio.create_task(serve(settings, app, stop)),
        asyncio.create_task(
            run_consumer(settings, metrics=metrics, tracing=tracing, stop=stop, broker=broker, serve=False)
        ),
    ]
    try:
        await _ready(settings, tasks)
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(tracing.shutdown)


async def _ready(settings: Settings, tasks: list[asyncio.Task[None]]) -> None:
    async with asyncio.timeout(30):
        while True:
            for task in tasks:
                if task.done():
                    task.result()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", settings.http.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def _convert(
    console: Console, settings: Settings, broker: Broker, source: Reference, digest: Digest
) -> ConversionEvent:
    """Post the webhook, follow the events to the end."""
    async with ClientSession(timeout=ClientTimeout(total=3)) as session:
        url = f"http://127.0.0.1:{settings.http.port}{settings.endpoint}"
        headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/json"}
        async with session.post(url, data=_webhook(source, digest), headers=headers) as answer:
            body = orjson.loads(await answer.read())
            console.print(f"[bold]4[/] POST {settings.endpoint}: {answer.status}, after the broker's confirm")
            if answer.status != 202:
                raise PermanentError(f"the webhook was not accepted: {body}", code="demo_failed")
    identity = body["conversions"][0]["id"]
    with console.status("converting") as status:
        async with asyncio.timeout(TIMEOUT):
            async for event in broker.events.read():
                if event.subject != identity:
                    continue
                if event.kind == "progress" and event.data.progress:
                    done, total = event.data.progress["done"], event.data.progress["total"]
                    line = f"layer {event.data.progress['layer'][7:19]}: {_mb(done)} of {_mb(total)} read"
                    status.update(line) if console.is_terminal else console.print(f"  {line}")
                elif event.kind == "succeeded":
                    return event
                elif event.kind in {"failed", "skipped"}:
                    why = event.data.failure.message if event.data.failure else event.data.reason
                    raise PermanentError(f"the demo's conversion ended as {event.kind}: {why}", code="demo_failed")
                elif not console.is_terminal:
                    console.print(f"  {event.kind}")
    raise PermanentError("the event stream ended", code="demo_failed")


async def _read_lazily(store: RegistryClient, target: Reference, layers: list[DemoLayer]) -> _LazyRead:
    """One file out of the largest layer by range requests, held against the file on this machine's disk."""
    manifest = await store.manifest(target)
    if not isinstance(manifest, ImageManifest):
        raise PermanentError("the target is not an image", code="demo_failed")
    number = max(range(len(layers)), key=lambda each: manifest.layers[each].size)
    blob: Descriptor = manifest.layers[number]
    fetched = requests = 0

    async def read(start: int, length: int) -> bytes:
        nonlocal fetched, requests
        data = await store.read_range(target, blob.digest, start, length)
        fetched += len(data)
        requests += 1
        return data

    toc = await read_toc(read, blob.size, blob.annotations[ANNOTATION_TOC_DIGEST])
    data = await read_file(read, toc, layers[number].sample)
    if hashlib.sha256(data).hexdigest() != layers[number].sample_digest:
        raise PermanentError("the file read lazily is not the file that went in", code="demo_failed")
    return _LazyRead(layers[number].sample, len(data), fetched, requests, blob.size)


def _summary(
    console: Console, *, source: Reference, target: Reference, event: ConversionEvent, proof: _LazyRead, seconds: float
) -> None:
    data = event.data
    table = Table(title="Converted", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a digest is wider than half a terminal
    table.add_column(no_wrap=True)
    table.add_row("source", str(source), _mb(data.source_size or 0))
    table.add_row("target", str(target), _mb(data.target_size or 0))
    table.add_row("digest", data.target_digest)
    table.add_row("layers", f"{data.layers_total}, {data.layers_reused} of them reused", "")
    table.add_row("trace", data.trace_id, "")
    table.add_row("in queue", f"{data.queue_seconds or 0:.3f} s", "")
    table.add_row("conversion", f"{data.duration_seconds or 0:.2f} s, in stages that overlap:", "")
    for name, spent in _by_stage(event).items():
        table.add_row(f"  {name}", f"{spent:.2f} s", "")
    console.print(table)
    share = proof.fetched / proof.layer_size
    console.print(
        f"[bold]Lazy:[/] {proof.path} ({proof.size:,} bytes) came out of the pushed image with {proof.requests} range requests:"
        f" {proof.fetched:,} of the layer's {proof.layer_size:,} bytes ({share:.1%}), digest verified."
    )
    console.print(
        f"All of it took {seconds:.1f} s. Next: `ics harbor setup --help`, or convert an image of yours: `ics convert --help`."
    )


def _by_stage(event: ConversionEvent) -> dict[str, float]:
    """Time from the first start to the last end of each stage; layers overlap, and so do stages."""
    spans: dict[str, tuple[float, float]] = {}
    for stage in event.data.stages:
        begin, end = stage.start_seconds, stage.start_seconds + stage.duration_seconds
        known = spans.get(stage.name, (begin, end))
        spans[stage.name] = (min(known[0], begin), max(known[1], end))
    return {name: end - begin for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1][0])}


async def _keep(console: Console, settings: Settings, config: Path, source: Reference) -> None:
    base = f"http://127.0.0.1:{settings.http.port}"
    console.print(
        "\nStill running; Ctrl-C ends it.\n"
        f"  console   {base}/console/ (to replay and discard: demo, demo)\n"
        f"  API       {base}/docs\n"
        f"  metrics   {base}/metrics\n"
        f"  registry  http://{source.registry}/v2/_catalog\n"
        f"  log       {config.with_name(LOG)}\n"
        "The command line, with its broker and registry:"
    )
    for command in (
        "dead-letters list",
        "config show",
        f"convert --driver nydus {source}",
        f"check {source}_esgz",
        f"backfill {source.registry} --dry-run",
    ):
        print(f"  ICS_CONFIG={shlex.quote(str(config))} {_program()} {command}")
    console.print(f"Push an image to {source.registry} and announce it:")
    body = (
        '{"type":"PUSH_ARTIFACT","event_data":{"resources":[{"resource_url":"'
        + source.registry
        + '/demo/python:latest"}]}}'
    )
    print(f"  curl -H 'Authorization: {AUTHORIZATION}' -d '{body}' {base}{settings.endpoint}", flush=True)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print(file=sys.stderr)


def _program() -> str:
    """``ics`` as a shell that stands here finds it."""
    if shutil.which("ics"):
        return "ics"
    beside = Path(sys.executable).with_name("ics")
    return shlex.quote(str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside))


def _configuration(folder: Path, registry_host: str) -> Path:
    """A file, so that other commands can be given it."""
    config = folder / "config.yml"
    document = {
        "hostname": "127.0.0.1",
        "http": {"port": _free_port()},
        "auth_header": AUTHORIZATION,
        "auths": {registry_host: {"insecure": True}},
        "broker": {"url": "embedded:", "data_dir": str(folder / "broker")},
        "work_dir": str(folder / "work"),
        "console": {"operator_credential": "demo:demo"},
    }
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    return config


def _webhook(source: Reference, digest: Digest) -> bytes:
    """Harbor's Default body."""
    project, _, name = source.repository.partition("/")
    return orjson.dumps(
        {
            "type": "PUSH_ARTIFACT",
            "occur_at": 1_700_000_000,
            "operator": "admin",
            "event_data": {
                "resources": [{"digest": str(digest), "tag": source.tag, "resource_url": str(source)}],
                "repository": {
                    "name": name,
                    "namespace": project,
                    "repo_full_name": source.repository,
                    "repo_type": "private",
                },
            },
        }
    )


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
