"""Source images built from short descriptions of tar layers."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence

import orjson
import zstandard

from drivers.api import Source
from drivers.testing.content import Repository
from shared.oci import media_types
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest
from shared.oci.reference import parse_reference

MTIME = 1_700_000_000


class Tar:
    """A layer, entry by entry; chainable."""

    def __init__(self, *, format: int = tarfile.PAX_FORMAT) -> None:  # noqa: A002
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=format, errors="surrogateescape")

    def entry(self, name: str, kind: bytes, data: bytes = b"", **fields: object) -> Tar:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.size = len(data)
        info.mtime = MTIME
        xattrs = fields.pop("xattrs", {})
        assert isinstance(xattrs, dict)
        info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in xattrs.items()}
        for field, value in fields.items():
            setattr(info, field, value)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def file(self, name: str, data: bytes = b"", **fields: object) -> Tar:
        return self.entry(name, tarfile.REGTYPE, data, **fields)

    def folder(self, name: str, **fields: object) -> Tar:
        return self.entry(name, tarfile.DIRTYPE, b"", **{"mode": 0o755, **fields})

    def symlink(self, name: str, target: str, **fields: object) -> Tar:
        return self.entry(name, tarfile.SYMTYPE, b"", **{"mode": 0o777, "linkname": target, **fields})

    def hardlink(self, name: str, target: str) -> Tar:
        return self.entry(name, tarfile.LNKTYPE, linkname=target)

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def add_image(
    repository: Repository,
    layers: Sequence[bytes],
    *,
    compression: str = "gzip",
    docker: bool = False,
    architecture: str = "amd64",
) -> ImageManifest:
    """Compress, describe and store an image of plain tar layers."""
    gzip_type = media_types.DOCKER_LAYER_GZIP if docker else media_types.OCI_LAYER_GZIP
    kinds = {"gzip": gzip_type, "zstd": media_types.OCI_LAYER_ZSTD, "none": media_types.OCI_LAYER}
    pack = {"gzip": lambda tar: gzip.compress(tar, 1, mtime=0), "zstd": zstandard.compress, "none": bytes}
    descriptors = [repository.add(pack[compression](tar), kinds[compression]) for tar in layers]
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in layers]},
        "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
        "x-unknown": {"kept": True},
    }
    manifest = encode_manifest(
        {
            "schemaVersion": 2,
            "mediaType": media_types.DOCKER_MANIFEST if docker else media_types.OCI_MANIFEST,
            "config": repository.add(
                orjson.dumps(config), media_types.DOCKER_CONFIG if docker else media_types.OCI_CONFIG
            ).to_json(),
            "layers": [descriptor.to_json() for descriptor in descriptors],
        }
    )
    assert isinstance(manifest, ImageManifest)
    repository.add_manifest(manifest)
    return manifest


def add_index(repository: Repository, images: Sequence[tuple[str, ImageManifest]]) -> Index:
    children = [
        Descriptor(image.media_type, image.digest, len(image.raw), platform=Platform.parse(platform)).to_json()
        for platform, image in images
    ]
    index = encode_manifest({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": children})
    assert isinstance(index, Index)
    repository.add_manifest(index)
    return index


def as_source(manifest: ImageManifest | Index, platforms: Sequence[str] = (), *, oci: bool = True) -> Source:
    reference = parse_reference("registry.test/source:1")
    return Source(reference, manifest, [Platform.parse(platform) for platform in platforms], oci)
