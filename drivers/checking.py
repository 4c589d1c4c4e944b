"""What checking a converted image finds, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference
from shared.registry.api import ImageStore


@dataclass(frozen=True, slots=True)
class Original:
    """Where the source of an image to check is, when it is not where the image's own annotations say."""

    store: ImageStore
    repository: Reference


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    image: str
    """The platform's manifest digest."""
    where: str
    """A structure's field (``blob[0].id``, ``layers[2]``) or a path of the file tree."""
    message: str

    def __str__(self) -> str:
        return f"{self.image[:19]} {self.where}: {self.message}"


@dataclass(slots=True)
class CheckReport:
    """``ok`` if nothing was found; the counts say how much was looked at."""

    images: int = 0
    entries: int = 0
    """Of all trees; compared one by one if there was a source to compare with."""
    blobs: int = 0
    chunks: int = 0
    compared: bool = True
    """Whether every image's source was there to compare with."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings


async def image_manifests(store: ImageStore, reference: Reference, root: ImageManifest | Index) -> list[ImageManifest]:
    """``root`` itself, or every image of an index."""
    if isinstance(root, ImageManifest):
        return [root]
    children = [await store.manifest(reference.with_digest(each.digest)) for each in root.manifests]
    return [child for child in children if isinstance(child, ImageManifest)]


async def original_manifest(original: Original, digest: str | None) -> ImageManifest | None:
    """The source manifest of that digest, if it is recorded and still there."""
    if digest is None:
        return None
    reference = original.repository.with_digest(Digest(digest))
    if await original.store.resolve(reference) is None:
        return None
    found = await original.store.manifest(reference)
    return found if isinstance(found, ImageManifest) else None
