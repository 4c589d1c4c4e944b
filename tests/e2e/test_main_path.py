"""A pushed image comes back as eStargz: real images, real registry, real brokers, real processes, the field's own tools."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from drivers.stargz.layout import ANNOTATION_TOC_DIGEST
from shared.oci.manifest import ImageManifest
from shared.oci.reference import parse_reference
from tests.e2e.system import BrokerKind, System, running_system
from tests.images.pushing import copy, digest_of, make_layout, pull, push, unpack
from tests.images.real_layers import RealLayers
from tests.images.trees import differences, tree_facts
from tests.integration.estargz.oracle import ask
from tests.servers.otlp import OtlpReceiver, holds_an_attempt, otlp_receiver
from tests.waiting import PATIENCE, until

MANY = 15_000


def image(real_layers: RealLayers, name: str, folder: Path) -> str:
    layers = [real_layers.debian()] if name == "debian" else [real_layers.icons()]
    folder.mkdir(parents=True, exist_ok=True)
    return make_layout(folder, layers)


async def converted(system: System, name: str, tag: str = "1") -> Any:
    reference = f"{system.host}/library/{name}:{tag}"
    event = await system.outcome(await system.accepted(reference, digest_of(reference)))
    assert event.kind == "succeeded", event.data
    return event


async def layers_of(system: System, name: str) -> ImageManifest:
    manifest = await system.client.manifest(parse_reference(f"{system.host}/library/{name}:1_esgz"))
    assert isinstance(manifest, ImageManifest)
    return manifest


async def judge(system: System, name: str, folder: Path) -> int:
    """Every layer, by the Go reference library: its table against the annotation, and every chunk."""
    manifest = await layers_of(system, name)
    repository = parse_reference(f"{system.host}/library/{name}:1_esgz")
    chunks = 0
    for number, layer in enumerate(manifest.layers):
        path = folder / f"layer-{number}"
        async with system.client.open_blob(repository, layer) as pieces:
            path.write_bytes(b"".join([piece async for piece in pieces]))
        report = ask("check", path, layer.annotations[ANNOTATION_TOC_DIGEST])
        chunks += len(report["files"])
    return chunks


@pytest.mark.parametrize("broker", ["rabbitmq", "embedded"])
async def test_real_images_come_back_entry_by_entry_the_same(
    broker: BrokerKind, real_layers: RealLayers, tmp_path: Path
) -> None:
    with otlp_receiver() as receiver:
        environment = {**receiver.environment, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        async with running_system(tmp_path / "system", broker, environment=environment) as system:
            for name in ("debian", "icons"):
                layout = image(real_layers, name, tmp_path / name)
                push(layout, f"{system.host}/library/{name}:1")
                done = await converted(system, name)
                expected = tree_facts(await asyncio.to_thread(unpack, layout, tmp_path / name / "source"))
                result = pull(f"{system.host}/library/{name}:1_esgz", tmp_path / name)
                found = tree_facts(await asyncio.to_thread(unpack, result, tmp_path / name / "result"))
                # The format's own files are ordinary entries to a runtime that does not know it.
                for own in (b".no.prefetch.landmark", b"stargz.index.json"):
                    found.pop(own, None)
                assert differences(expected, found) == []
                assert name == "debian" or len(expected) > MANY
                assert await judge(system, name, tmp_path / name) >= len(expected) - 1
                await one_trace(receiver, done.data.trace_id)
            await converting_again_gives_nothing_to_do(system)
            await converting_anew_gives_the_same_bytes(system)
            await system.idle()


async def one_trace(receiver: OtlpReceiver, trace_id: str) -> None:
    """From the webhook's server span to the tag: one trace over two processes, with the right parents."""
    await until(lambda: holds_an_attempt(receiver.trace(trace_id)))
    spans = receiver.trace(trace_id)
    by_id = {each.span.span_id: each for each in spans}
    services = {each.service for each in spans}
    assert services == {"ics-ingress", "ics-consumer"}
    (process,) = [each for each in spans if each.attributes.get("messaging.operation.type") == "process"]
    (send,) = [each for each in spans if each.attributes.get("messaging.operation.type") == "send"]
    assert process.span.parent_span_id == send.span.span_id
    assert by_id[send.span.parent_span_id].service == "ics-ingress"
    for each in spans:
        if each.service == "ics-consumer" and each is not process:
            above = each
            while above.span.parent_span_id in by_id and above is not process:
                above = by_id[above.span.parent_span_id]
            assert above is process, f"{each.name} is outside of the conversion"


async def converting_again_gives_nothing_to_do(system: System) -> None:
    """The same webhook once more: skipped. The converted image announced: skipped too."""
    reference = f"{system.host}/library/debian:1"
    for pushed, reason in ((reference, "up to date"), (f"{reference}_esgz", "made by a converter")):
        await system.accepted(pushed, digest_of(pushed), {"X-Request-Id": f"again-{reason}"})
        async with asyncio.timeout(2 * PATIENCE):
            async for event in system.broker.events.read():
                if event.kind == "skipped" and event.data.reason == reason:
                    break


async def converting_anew_gives_the_same_bytes(system: System) -> None:
    """In another repository, where nothing is cached: the same layers."""
    first = await layers_of(system, "debian")
    source = f"{system.host}/other/debian:1"
    push_from = parse_reference(f"{system.host}/library/debian:1")
    assert await system.client.resolve(push_from) is not None
    copy(str(push_from), source)
    event = await system.outcome(await system.accepted(source, digest_of(source)))
    assert event.kind == "succeeded"
    assert event.data.layers_reused == 0
    again = await system.client.manifest(parse_reference(f"{source}_esgz"))
    assert isinstance(again, ImageManifest)
    assert [layer.digest for layer in again.layers] == [layer.digest for layer in first.layers]
    assert again.config.digest == first.config.digest
