"""The reference: what ``umoci`` makes of an image's layers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson

from drivers.testing.content import Repository
from shared.oci.manifest import ImageManifest


def write_layout(repository: Repository, image: ImageManifest, folder: Path) -> None:
    """An OCI image layout with ``image`` as ``source``."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest in [image.config.digest, *(layer.digest for layer in image.layers)]:
        (blobs / digest.hex).write_bytes(repository.blobs[digest])
    (blobs / image.digest.hex).write_bytes(image.raw)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    descriptor = image.descriptor.to_json() | {"annotations": {"org.opencontainers.image.ref.name": "source"}}
    (folder / "index.json").write_bytes(orjson.dumps({"schemaVersion": 2, "manifests": [descriptor]}))


def unpack(repository: Repository, image: ImageManifest, folder: Path) -> Path:
    """The root file system as umoci extracts it; needs root."""
    layout, bundle = folder / "layout", folder / "bundle"
    layout.mkdir(parents=True)
    write_layout(repository, image, layout)
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{layout}:source", str(bundle)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return bundle
