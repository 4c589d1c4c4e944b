"""Small real images, made from a number: the same number gives the same bytes."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from dataclasses import dataclass

import orjson

from shared.oci import media_types
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from shared.oci.reference import Reference
from shared.registry.api import ImageStore

_PLATFORM = Platform("linux", "amd64")


@dataclass(frozen=True)
class SmallImage:
    manifest: ImageManifest
    blobs: dict[str, bytes]
    children: tuple[ImageManifest, ...] = ()
    """None: it is an image itself."""

    @property
    def own_layer(self) -> Digest:
        """Of a layer that no image of another number has."""
        return self.manifest.layers[-1].digest


@dataclass(frozen=True)
class SmallIndex:
    manifest: Index
    blobs: dict[str, bytes]
    children: tuple[ImageManifest, ...]
    """One a platform."""

    @property
    def own_layer(self) -> Digest:
        """Of the last platform."""
        return self.children[-1].layers[-1].digest


def layer_tar(seed: int, entries: int) -> bytes:
    """A layer of directories, files, links and a whiteout, deterministic in ``seed``."""
    rng = random.Random(seed)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        top = tarfile.TarInfo(f"d{seed}")
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(top)
        for number in range(entries):
            info = tarfile.TarInfo(f"d{seed}/file-{number}")
            data = rng.randbytes(rng.choice((0, 10, 1_000, 20_000))) + b"text " * rng.randrange(2_000)
            info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
            info.pax_headers = {"SCHILY.xattr.user.number": str(number)} if number % 3 == 0 else {}
            tar.addfile(info, io.BytesIO(data))
        for name, kind in (("hard", tarfile.LNKTYPE), ("soft", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(f"d{seed}/{name}")
            link.type, link.linkname = kind, f"d{seed}/file-0"
            tar.addfile(link)
        tar.addfile(tarfile.TarInfo(f"d{seed}/.wh.gone"))
    return buffer.getvalue()


def image_of(number: int) -> SmallImage | SmallIndex:
    """Every third has two platforms."""
    return small_index(number) if number % 3 == 1 else small_image(number)


def small_index(number: int) -> SmallIndex:
    """Two platforms, whose base layer is the same."""
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64", "v8"))
    images = [small_image(number, platform) for platform in platforms]
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [
                Descriptor(
                    image.manifest.media_type, image.manifest.digest, len(image.manifest.raw), platform=platform
                ).to_json()
                for image, platform in zip(images, platforms, strict=True)
            ],
        }
    )
    assert isinstance(manifest, Index)
    blobs = {digest: data for image in images for digest, data in image.blobs.items()}
    return SmallIndex(manifest, blobs, tuple(image.manifest for image in images))


def small_image(number: int, platform: Platform = _PLATFORM) -> SmallImage:
    """A base layer shared by ten images each, and a layer of its own, another one for another platform."""
    return image_over(layer_tar(1_000_000 + number // 10, 12), number, platform)


def image_over(base: bytes, number: int, platform: Platform = _PLATFORM) -> SmallImage:
    """A layer of its own over the tar ``base``."""
    own = number if platform == _PLATFORM else 2_000_000 + number
    tars = [base, layer_tar(own, 6)]
    packed = [gzip.compress(tar, 6, mtime=0) for tar in tars]
    config = orjson.dumps(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {"Env": [f"NUMBER={number}"]},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
            "history": [{"created_by": "base"}, {"created_by": f"image {number}"}],
        }
    )
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": Descriptor(media_types.OCI_CONFIG, Digest.of(config), len(config)).to_json(),
            "layers": [Descriptor(media_types.OCI_LAYER_GZIP, Digest.of(blob), len(blob)).to_json() for blob in packed],
        }
    )
    assert isinstance(manifest, ImageManifest)
    return SmallImage(manifest, {str(Digest.of(blob)): blob for blob in (*packed, config)})


async def push_image(store: ImageStore, reference: Reference, image: SmallImage | SmallIndex) -> None:
    for digest, data in image.blobs.items():
        if not await store.has_blob(reference, Digest(digest)):
            async with store.upload(reference) as upload:
                await upload.write(data)
                await upload.commit("application/octet-stream")
    for child in image.children:
        await store.put_manifest(Reference(reference.registry, reference.repository, None, child.digest), child)
    await store.put_manifest(reference, image.manifest)
