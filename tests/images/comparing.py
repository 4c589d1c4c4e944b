"""Reading a converted image back and holding it against its source, layer by layer, entry by entry."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import Any

from drivers.api import ANNOTATION_SOURCE_DIGEST
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

ADDED = frozenset({"stargz.index.json", ".no.prefetch.landmark", ".prefetch.landmark"})


async def source_digest_of(store: ImageStore, target: Reference) -> str | None:
    """The source digest that a converted image names; None without one or without an image."""
    if await store.resolve(target) is None:
        return None
    return (await store.manifest(target)).annotations.get(ANNOTATION_SOURCE_DIGEST)


async def differences(store: ImageStore, source: Reference, target: Reference) -> list[str]:
    """What of ``source`` (by digest) the image or index at ``target`` does not give back; empty when all is there."""
    before, after = await store.manifest(source), await store.manifest(target)
    if isinstance(before, Index) and isinstance(after, Index):
        return await _platform_differences(store, source, before, target, after)
    if not isinstance(before, ImageManifest) or not isinstance(after, ImageManifest):
        return ["one is an image, the other an index"]
    found: list[str] = []
    if len(before.layers) != len(after.layers):
        found.append(f"{len(before.layers)} layers became {len(after.layers)}")
    for number, (old, new) in enumerate(zip(before.layers, after.layers, strict=False)):
        if _entries(await _read(store, source, old)) != _entries(await _read(store, target, new)):
            found.append(f"layer {number} differs")
    return found


async def _platform_differences(
    store: ImageStore, source: Reference, before: Index, target: Reference, after: Index
) -> list[str]:
    old = {str(child.platform): child.digest for child in before.manifests}
    new = {str(child.platform): child.digest for child in after.manifests}
    if old.keys() != new.keys():
        return [f"platforms {sorted(old)} became {sorted(new)}"]
    return [
        f"{platform}: {difference}"
        for platform in old
        for difference in await differences(store, source.with_digest(old[platform]), target.with_digest(new[platform]))
    ]


async def _read(store: ImageStore, repository: Reference, blob: Descriptor) -> bytes:
    async with store.open_blob(repository, blob) as stream:
        data = b"".join([piece async for piece in stream])
    if Digest.of(data) != blob.digest:
        raise AssertionError(f"{blob.digest} is not what its descriptor says")
    return data


def _entries(blob: bytes) -> dict[str, tuple[Any, ...]]:
    entries: dict[str, tuple[Any, ...]] = {}
    # As a file: gzip.decompress() copies all that is left for each member, and a layer may have a hundred thousand.
    with gzip.GzipFile(fileobj=io.BytesIO(blob)) as layer:
        data = layer.read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            if info.name in ADDED:
                continue
            file = tar.extractfile(info) if info.isreg() else None
            content = file.read() if file else b""
            attributes = tuple(sorted((k, v) for k, v in info.pax_headers.items() if k.startswith("SCHILY.xattr.")))
            entries[info.name] = (
                info.type,
                info.mode,
                info.uid,
                info.gid,
                info.mtime,
                info.linkname,
                attributes,
                content,
            )
    return entries
