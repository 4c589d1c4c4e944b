"""Bad input goes all the way to the dead-letter queue under its own error class, and nothing is pushed."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import encode_manifest
from shared.oci.reference import Reference, parse_reference
from tests.dead_letters import dead
from tests.e2e.system import BrokerKind, System, running_system
from tests.servers.registry import docker_registry
from tests.servers.scripted import scripted_server

UNKNOWN = b'{"schemaVersion": 7, "mediaType": "application/vnd.example.unknown+json"}'


@dataclass
class Place:
    """A system, and the odd registries that it may contact."""

    system: System
    hanging: str
    unknown: str
    locked: str


@asynccontextmanager
async def place(folder: Path, broker: BrokerKind) -> AsyncIterator[Place]:
    async def never(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    async def unknown(request: web.Request) -> web.StreamResponse:
        if "/manifests/" not in request.path:
            return web.json_response({})
        headers = {
            "Content-Type": "application/vnd.example.unknown+json",
            "Docker-Content-Digest": str(Digest.of(UNKNOWN)),
        }
        if request.path.endswith("_esgz"):
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        return web.Response(body=UNKNOWN, headers=headers)

    async with AsyncExitStack() as stack:
        hanging = await stack.enter_async_context(scripted_server(never))
        odd = await stack.enter_async_context(scripted_server(unknown))
        locked = stack.enter_context(docker_registry(folder / "locked", credential=("robot", "right")))
        wrong = base64.b64encode(b"robot:wrong").decode()
        system = await stack.enter_async_context(
            running_system(
                folder / "system",
                broker,
                {
                    "retry": {"maximum_attempts": 1, "maximum_outage": 0},
                    "timeouts": {"read": 4, "connect": 4, "conversion": 60},
                    "limits": {"layer_entries": 1000},
                },
                auths={
                    hanging: {"insecure": True},
                    odd: {"insecure": True},
                    locked.host: {"insecure": True, "auth": wrong},
                },
            )
        )
        yield Place(system, hanging, odd, locked.host)


def tar(files: int = 3, size: int = 40_000) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(files):
            info = tarfile.TarInfo(f"file-{number}")
            info.size = size
            archive.addfile(info, io.BytesIO(bytes([number % 251]) * size))
    return buffer.getvalue()


async def push(system: System, name: str, layer: bytes, *, size: int | None = None) -> tuple[str, Descriptor]:
    """One image with one layer whose descriptor may lie about its ``size``."""
    reference = f"{system.host}/bad/{name}:1"
    where = parse_reference(reference)
    config = orjson.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]}}
    )

    async def upload(data: bytes, media_type: str) -> Descriptor:
        async with system.client.upload(where) as writer:
            await writer.write(data)
            return await writer.commit(media_type)

    blob = await upload(layer, media_types.OCI_LAYER_GZIP)
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": (await upload(config, media_types.OCI_CONFIG)).to_json(),
            "layers": [{**blob.to_json(), "size": size or blob.size}],
        }
    )
    await system.client.put_manifest(where, manifest)
    return str(manifest.digest), blob


async def dies(system: System, reference: str, digest: str) -> Any:
    """Announce it, get its dead letter, see that nothing was pushed and that the queue is empty; then make room."""
    await system.accepted(reference, digest)
    letter = await system.dead_letter()
    assert letter.request is not None
    assert str(letter.request.source) == f"{reference}@{digest}"
    assert len(letter.attempts) == 1
    assert letter.trace_id
    await system.idle()
    if reference.startswith(system.host):
        target: Reference = letter.request.target
        assert await system.client.resolve(target) is None
    assert await system.broker.dead_letters.discard(letter.id)
    return letter.failure


@pytest.mark.parametrize("broker", ["rabbitmq", "embedded"])
async def test_every_kind_of_bad_input_has_its_error_class_and_pushes_nothing(
    broker: BrokerKind, tmp_path: Path
) -> None:
    async with place(tmp_path, broker) as odd:
        system = odd.system

        async def pushed(name: str, layer: bytes, *, size: int | None = None) -> Any:
            digest, _ = await push(system, name, layer, size=size)
            return await dies(system, f"{system.host}/bad/{name}:1", digest)

        whole = gzip.compress(tar(), mtime=0)
        found: dict[str, tuple[str, str]] = {}

        def note(case: str, failure: Any) -> None:
            found[case] = (failure.code, failure.kind)

        note("gzip cut short", await pushed("cut-gzip", whole[: len(whole) // 2]))
        note("tar cut in the middle", await pushed("cut-tar", gzip.compress(tar()[:60_000], mtime=0)))
        note("not a tar at all", await pushed("text", gzip.compress(b"no tar" * 1000, mtime=0)))
        note("too many entries", await pushed("many", gzip.compress(tar(2000, 0), mtime=0)))
        note("a size that is a lie", await pushed("lie", gzip.compress(tar(4), mtime=0), size=123_456))

        digest, blob = await push(system, "rotten", gzip.compress(tar(5), mtime=0))
        (stored,) = system.registry.root.glob(f"storage/**/blobs/sha256/{blob.digest.hex[:2]}/{blob.digest.hex}/data")
        data = bytearray(stored.read_bytes())
        data[len(data) // 2] ^= 0xFF
        stored.write_bytes(data)
        note("other bytes than the digest says", await dies(system, f"{system.host}/bad/rotten:1", digest))

        missing = str(Digest.of(b"never pushed"))
        note("unknown manifest type", await dies(system, f"{odd.unknown}/bad/odd:1", str(Digest.of(UNKNOWN))))
        note("wrong credentials", await dies(system, f"{odd.locked}/bad/locked:1", missing))
        note("a registry that hangs", await dies(system, f"{odd.hanging}/bad/slow:1", missing))

        assert found == {
            "gzip cut short": ("corrupt_layer", "permanent"),
            "tar cut in the middle": ("corrupt_layer", "permanent"),
            "not a tar at all": ("corrupt_layer", "permanent"),
            "too many entries": ("limit_exceeded", "permanent"),
            "a size that is a lie": ("corrupt_layer", "permanent"),
            "other bytes than the digest says": ("corrupt_layer", "permanent"),
            "unknown manifest type": ("unsupported_media_type", "permanent"),
            "wrong credentials": ("unauthorized", "permanent"),
            "a registry that hangs": ("registry_timeout", "transient"),
        }

        status, problem = await system.post(b'{"hello": "world"}')
        assert status == 400
        assert problem["status"] == 400
        status, problem = await system.post(b'{"type": "PUSH_ARTI')
        assert status == 400
        status, answer = await system.webhook("evil.example.com/bad/app:1", missing)
        assert status == 200
        assert answer["skipped"][0]["reason"] == "registry not allowed"
        assert system.registry.upload_sessions() == []
        assert await dead(system.broker) == 0
