"""The development registry is honest: skopeo pushes to it and pulls from it, and it refuses what a registry refuses."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.oci import media_types
from shared.oci.digest import Digest
from tests.servers.devregistry import Fault, FaultyRegistry, serve_registry
from tests.servers.devregistry.tokens import Gate

EMPTY = Digest.of(b"")
CONTENT = b"content"
DIGEST = Digest.of(CONTENT)
IMAGE = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": {"mediaType": media_types.OCI_CONFIG, "digest": DIGEST, "size": len(CONTENT)},
        "layers": [],
    }
).encode()


@pytest.fixture
async def registry(tmp_path: Path) -> FaultyRegistry:
    return FaultyRegistry(tmp_path / "registry")


class Caller:
    """Raw requests."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(
        self, method: str, path: str, data: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        body = None if data is None else io.BytesIO(data)
        async with self._session.request(method, path, data=body, headers=named) as response:
            return response.status, dict(response.headers), await response.read()


@pytest.fixture
async def call(registry: FaultyRegistry) -> AsyncIterator[Caller]:
    async with serve_registry(registry) as host, aiohttp.ClientSession(f"http://{host}") as session:
        yield Caller(session)


async def run(*command: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.parametrize("mode", ["none", "basic", "token"])
async def test_skopeo_pushes_and_pulls(tmp_path: Path, mode: Any) -> None:
    layout = _layout(tmp_path / "layout")
    registry = FaultyRegistry(tmp_path / "registry", gate=Gate(mode, "user", "secret"))
    async with serve_registry(registry) as host:
        push, pull = [["--dest-creds", "user:secret"], ["--src-creds", "user:secret"]] if mode != "none" else [[], []]
        image = f"docker://{host}/project/app:1"
        await run("skopeo", "copy", "--dest-tls-verify=false", *push, f"oci:{layout}:x", image)
        await run("skopeo", "copy", "--src-tls-verify=false", *pull, image, f"oci:{tmp_path / 'back'}:x")
    blobs = {path.name for path in (layout / "blobs/sha256").iterdir()}
    assert {path.name for path in (tmp_path / "back/blobs/sha256").iterdir()} == blobs
    assert registry.storage.uploads() == []


def _layout(root: Path) -> Path:
    """An OCI layout with one image of one layer."""
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    content = os.urandom(3_000_000)
    layer = blob(gzip.compress(content, 1, mtime=0), media_types.OCI_LAYER_GZIP)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest.of(content)]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": blob(json.dumps(config).encode(), media_types.OCI_CONFIG),
        "layers": [layer],
    }
    descriptor = blob(json.dumps(manifest).encode(), media_types.OCI_MANIFEST)
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "NOT_FOUND"),
        ("GET", "/v2/a", 404, "NOT_FOUND"),
        ("GET", "/token", 404, "NOT_FOUND"),
        ("GET", "/v2/UPPER/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/a/blobs/sha256:x", 400, "DIGEST_INVALID"),
        ("GET", f"/v2/a/blobs/{DIGEST}", 404, "BLOB_UNKNOWN"),
        ("DELETE", f"/v2/a/blobs/{DIGEST}", 404, "BLOB_UNKNOWN"),
        ("PUT", f"/v2/a/blobs/{DIGEST}", 405, "UNSUPPORTED"),
        ("GET", "/v2/a/manifests/latest", 404, "NAME_UNKNOWN"),
        ("POST", "/v2/a/manifests/latest", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/a/manifests/-x", 400, "DIGEST_INVALID"),
        ("PUT", "/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
        ("GET", "/v2/a/blobs/uploads/unknown", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("DELETE", "/v2/a/blobs/uploads/unknown", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("POST", "/v2/a/blobs/uploads/unknown", 405, "UNSUPPORTED"),
        ("POST", f"/v2/a/blobs/uploads/?digest={EMPTY}", 201, ""),
        ("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", 400, "DIGEST_INVALID"),
        ("POST", "/v2/a/blobs/uploads/?digest=x", 400, "DIGEST_INVALID"),
    ],
)
async def test_what_is_not_there_or_not_allowed(call: Caller, method: str, path: str, status: int, code: str) -> None:
    answered, _, body = await call(method, path)
    assert answered == status
    if code:
        assert json.loads(body)["errors"][0]["code"] == code


async def test_chunks_must_follow_each_other(call: Caller) -> None:
    _, headers, _ = await call("POST", "/v2/a/blobs/uploads/")
    location = headers["Location"]
    status, headers, _ = await call("PATCH", location, b"0123", Content_Range="0-3")
    assert (status, headers["Range"]) == (202, "0-3")
    status, headers, _ = await call("PATCH", location, b"89", Content_Range="8-9")
    assert (status, headers["Range"]) == (416, "0-3")
    status, headers, _ = await call("GET", location)
    assert (status, headers["Range"]) == (204, "0-3")
    whole = "sha512:" + hashlib.sha512(b"012345").hexdigest()
    status, headers, _ = await call("PUT", f"{location}?digest={whole}", b"45")
    assert (status, headers["Docker-Content-Digest"]) == (201, whole)
    status, headers, body = await call("GET", f"/v2/a/blobs/{whole}", Range="bytes=2-3")
    assert (status, headers["Content-Range"], body) == (206, "bytes 2-3/6", b"23")


async def test_an_upload_survives_a_restart(tmp_path: Path) -> None:
    data = os.urandom(2_500_000)
    root = tmp_path / "registry"
    async with serve_registry(FaultyRegistry(root)) as host, aiohttp.ClientSession(f"http://{host}") as session:
        _, headers, _ = await Caller(session)("POST", "/v2/a/blobs/uploads/")
        await Caller(session)("PATCH", headers["Location"], data[:1_800_000])
    async with serve_registry(FaultyRegistry(root)) as host, aiohttp.ClientSession(f"http://{host}") as session:
        target = f"{headers['Location']}?digest={Digest.of(data)}"
        status, _, _ = await Caller(session)("PUT", target, data[1_800_000:])
        assert status == 201
        assert (await Caller(session)("GET", f"/v2/a/blobs/{Digest.of(data)}"))[2] == data


async def test_manifests_are_checked_kept_and_deleted(call: Caller) -> None:
    kind = {"Content_Type": media_types.OCI_MANIFEST}
    assert (await call("PUT", "/v2/a/manifests/x", b"{", **kind))[0] == 400
    assert (await call("PUT", "/v2/a/manifests/x", b" " * (4 << 20) + b" ", **kind))[0] == 413
    assert (await call("PUT", "/v2/a/manifests/x", IMAGE, **kind))[0] == 400
    assert (await call("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", CONTENT))[0] == 201
    assert (await call("PUT", f"/v2/a/manifests/{DIGEST}", IMAGE, **kind))[0] == 400
    for tag in ("x", "y"):
        assert (await call("PUT", f"/v2/a/manifests/{tag}", IMAGE, **kind))[0] == 201
    assert json.loads((await call("GET", "/v2/_catalog"))[2]) == {"repositories": ["a"]}
    status, headers, _ = await call("HEAD", "/v2/a/manifests/x")
    assert (status, headers["Content-Length"]) == (200, str(len(IMAGE)))
    assert (await call("POST", "/v2/a/manifests/x"))[0] == 405
    assert (await call("DELETE", "/v2/a/manifests/x"))[0] == 202
    assert (await call("GET", "/v2/a/manifests/x"))[0] == 404
    assert (await call("DELETE", f"/v2/a/manifests/{Digest.of(IMAGE)}"))[0] == 202
    assert json.loads((await call("GET", "/v2/a/tags/list"))[2])["tags"] == []
    assert (await call("DELETE", f"/v2/a/blobs/{DIGEST}"))[0] == 202
    assert (await call("GET", f"/v2/a/blobs/{DIGEST}"))[0] == 404


async def test_an_index_over_nothing_is_refused(call: Caller) -> None:
    child = {"mediaType": media_types.OCI_MANIFEST, "digest": DIGEST, "size": 7}
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [child]}).encode()
    status, _, body = await call("PUT", "/v2/a/manifests/x", body, Content_Type=media_types.OCI_INDEX)
    assert status == 400
    assert json.loads(body)["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"


async def test_faults_hit_the_requests_they_name(registry: FaultyRegistry, call: Caller) -> None:
    registry.faults.add(Fault("status", "GET", r"^/v2/$", first=2, times=2, status=418, headers={"X": "y"}, body=b"b"))
    registry.faults.add(Fault("delay", "GET", seconds=0.001, times=0))
    assert [(await call("GET", "/v2/"))[0] for _ in range(4)] == [200, 418, 418, 200]
    assert (await call("GET", "/v2/_catalog"))[0] == 200
    registry.faults.clear()
    assert (await call("GET", "/v2/"))[0] == 200
    assert [method for method, _ in registry.requests] == ["GET"] * 6
    registry.faults.add(Fault("truncate", after=1))
    with pytest.raises(aiohttp.ClientPayloadError):
        await call("GET", "/v2/_catalog")


async def test_tokens_open_what_they_are_for_until_they_expire(registry: FaultyRegistry, call: Caller) -> None:
    registry.gate.mode, registry.gate.user, registry.gate.password = "token", "u", "p"
    right = "Basic " + base64.b64encode(b"u:p").decode()
    status, headers, _ = await call("GET", "/v2/a/tags/list")
    assert status == 401
    assert 'scope="repository:a:pull"' in headers["WWW-Authenticate"]
    assert (await call("GET", "/token", Authorization="Basic !"))[0] == 401
    target = "/token?scope=repository:a:pull&scope=odd"
    token = json.loads((await call("GET", target, Authorization=right))[2])["token"]
    bearer = f"Bearer {token}"
    assert (await call("GET", "/v2/a/tags/list", Authorization=bearer))[0] == 404
    assert (await call("GET", "/v2/b/tags/list", Authorization=bearer))[0] == 401
    assert (await call("POST", "/v2/a/blobs/uploads/", Authorization=bearer))[0] == 401
    registry.gate.lifetime = -1
    token = json.loads((await call("GET", target, Authorization=right))[2])["token"]
    assert (await call("GET", "/v2/a/tags/list", Authorization=f"Bearer {token}"))[0] == 401
