"""A real image out of what the machine has: its Python installation, in two layers, as reproducible gzipped tars."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
from isal import igzip

from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, encode_manifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

PER_LAYER = 80 << 20
"""Bytes of files at most: a demo should take seconds."""
SKIPPED = frozenset({"__pycache__", "test", "tests", "idlelib", "turtledemo"})


@dataclass(frozen=True)
class DemoLayer:
    """One layer, in memory: it is what an image builder would have pushed."""

    title: str
    blob: bytes
    diff_id: Digest
    files: int
    size: int
    """Bytes of tar."""
    sample: str
    """Name of a file to read lazily later."""
    sample_digest: str


def python_layers() -> list[DemoLayer]:
    """The standard library, and the packages installed beside it."""
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    binary = Path(os.path.realpath(sys.executable))
    return [
        _layer("Python and its standard library", [(binary, "usr/bin/python3"), (library, "usr/lib/python3")]),
        _layer("installed packages", [(packages, "usr/lib/python3/site-packages")]),
    ]


def _layer(title: str, roots: list[tuple[Path, str]]) -> DemoLayer:
    buffer = io.BytesIO()
    budget, files = PER_LAYER, 0
    sample, sample_digest, sample_size = "", "", 0
    made: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for root, place in roots:
            for path, name in _walk(root, place):
                for parent in reversed(Path(name).parents):
                    _directory(tar, str(parent), made)
                info = tarfile.TarInfo(name)
                info.mtime = 1_700_000_000
                if path.is_symlink():
                    info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)  # noqa: PTH115  the target as it stands
                    tar.addfile(info)
                    continue
                data = path.read_bytes()
                if len(data) > budget:
                    continue
                budget -= len(data)
                info.size, info.mode = len(data), 0o755 if os.access(path, os.X_OK) else 0o644
                tar.addfile(info, io.BytesIO(data))
                files += 1
                if name.endswith(".py") and sample_size < len(data) < 200_000:
                    sample, sample_digest, sample_size = name, hashlib.sha256(data).hexdigest(), len(data)
    raw = buffer.getvalue()
    blob = igzip.compress(raw, compresslevel=3)
    return DemoLayer(title, blob, Digest.of(raw), files, len(raw), sample, sample_digest)


def _walk(root: Path, place: str) -> Iterator[tuple[Path, str]]:
    if root.is_file():
        yield root, place
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            set(folders) - SKIPPED - {"site-packages"} if folder == str(root) else set(folders) - SKIPPED
        )
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_symlink() or path.is_file():
                yield path, f"{place}/{path.relative_to(root)}"


def _directory(tar: tarfile.TarFile, name: str, made: set[str]) -> None:
    if name != "." and name not in made:
        made.add(name)
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
        tar.addfile(info)


async def push_demo_image(store: ImageStore, reference: Reference, layers: list[DemoLayer]) -> ImageManifest:
    """Push it as a builder would."""
    config = orjson.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["python3"]},
            "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
            "history": [{"created_by": layer.title} for layer in layers],
        }
    )
    descriptors = []
    for data, media_type in [
        (config, media_types.OCI_CONFIG),
        *((layer.blob, media_types.OCI_LAYER_GZIP) for layer in layers),
    ]:
        async with store.upload(reference) as upload:
            for start in range(0, len(data), 1 << 20):
                await upload.write(data[start : start + (1 << 20)])
            descriptors.append(await upload.commit(media_type))
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": descriptors[0].to_json(),
            "layers": [descriptor.to_json() for descriptor in descriptors[1:]],
        }
    )
    await store.put_manifest(reference, manifest)
    if not isinstance(manifest, ImageManifest):
        raise TypeError(manifest.media_type)
    return manifest


def total_size(layers: list[Descriptor] | tuple[Descriptor, ...]) -> int:
    """Bytes."""
    return sum(layer.size for layer in layers)
