"""Images in a registry: put there by skopeo as they are, and where registries run while something is measured."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import usage
from benchmarks.inputs import Layer
from tests.servers.registry import RegistryServer, docker_registry

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@contextmanager
def registry(folder: Path) -> Iterator[RegistryServer]:
    """Debian's docker-registry, empty, on plain HTTP."""
    with docker_registry(folder, environment={"REGISTRY_LOG_LEVEL": "error"}) as server:
        yield server


def cpu_of(server: RegistryServer) -> float:
    """CPU seconds of the registry's process so far."""
    assert server.process is not None
    return usage.cpu_of(server.process.pid)


def push(layers: Sequence[Layer], reference: str, folder: Path, *, author: str = "") -> None:
    """Push an image of these layers, gzip members as they are. Another ``author`` makes another image of the same layers."""
    layout = folder / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        link = blobs / layer.digest.removeprefix("sha256:")
        if not link.exists():
            link.symlink_to(layer.packed.resolve())
    config = _blob(
        blobs,
        {
            "architecture": "amd64",
            "os": "linux",
            "author": author,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        },
    )
    manifest = _blob(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, **config},
            "layers": [{"mediaType": LAYER, "digest": layer.digest, "size": layer.size} for layer in layers],
        },
    )
    _write(layout / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    _write(layout / "index.json", {"schemaVersion": 2, "manifests": [{"mediaType": _MANIFEST, **manifest}]})
    skopeo(f"oci:{layout}", f"docker://{reference}", folder)


def skopeo(source: str, target: str, folder: Path) -> float:
    """``skopeo copy``; seconds of wall time. What it remembers of registries stays in ``folder``."""
    command = ("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false")
    environment = {**os.environ, "_CONTAINERS_ROOTLESS_UID": "1000", "XDG_DATA_HOME": str(folder / "skopeo")}
    start = time.perf_counter()
    done = subprocess.run(
        [*command, source, target], env=environment, check=False, capture_output=True, text=True, timeout=900
    )
    if done.returncode:
        raise RuntimeError(f"skopeo copy failed: {done.stderr[-1000:]}")
    return time.perf_counter() - start


def _blob(blobs: Path, document: dict[str, Any]) -> dict[str, Any]:
    raw = json.dumps(document).encode()
    digest = hashlib.sha256(raw).hexdigest()
    (blobs / digest).write_bytes(raw)
    return {"digest": f"sha256:{digest}", "size": len(raw)}


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document))
