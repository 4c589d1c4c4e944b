"""Conversions of small images, in memory."""

from __future__ import annotations

from typing import Any

import orjson

from drivers.api import Result
from drivers.nydus import NydusDriver
from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, add_index, as_source
from shared.oci.manifest import ImageManifest, Index

BASE = Tar().folder("d").file("d/a", b"a" * 100_000).bytes()
TOP = Tar().file("b", b"b").bytes()
NYDUS = "containerd.io/snapshot/nydus-"


async def convert(
    content: MemoryContent, manifest: ImageManifest | Index, option: NydusOptions | None = None, **source: Any
) -> Result:
    return await NydusDriver().convert(as_source(manifest, **source), content, option or NydusOptions())


def image_of(result: Result) -> ImageManifest:
    assert isinstance(result.root, ImageManifest)
    return result.root


def index_of(result: Result) -> Index:
    assert isinstance(result.root, Index)
    return result.root


def config_of(content: MemoryContent, image: ImageManifest) -> dict[str, Any]:
    config: dict[str, Any] = orjson.loads(content.target_repository.blobs[image.config.digest])
    return config


def two_platforms(repository: Repository) -> tuple[Index, dict[str, ImageManifest]]:
    images = {name: add_image(repository, [BASE, TOP], architecture=name) for name in ("amd64", "arm64")}
    return add_index(repository, [(f"linux/{name}", image) for name, image in images.items()]), images
