"""What checking a converted image finds, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.errors import PermanentError
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index
from shared.oci.reference import Reference, parse_written
from shared.registry.api import ImageStore


@dataclass(frozen=True, slots=True)
class Original:
    """Where the source of an image to check is."""

    store: ImageStore
    reference: Reference
    name: str = ""
    """What people call it, where ``reference`` is a stand-in for a file."""

    def __str__(self) -> str:
        return self.name or str(self.reference)


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
    not_compared: list[str] = field(default_factory=list)
    """Why not, once for each image."""
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


async def find_source(
    digest: str | None, recorded: str | None, *, given: Original | None, own: Original, report: CheckReport
) -> tuple[Original, ImageManifest] | None:
    """The image that one to check was made of; None, and the reason in ``report``, if nobody knows where it is.

    Args:
        digest: of the source's manifest, as the image says.
        recorded: the repository that the image names as its source's; looked at before its own.
        given: where the caller says that the source is: then it has to be there.
        own: where the image itself is.
        report: told when nothing is found.

    Raises:
        PermanentError: ``manifest_unknown``, ``source_differs``: of ``given``.
        TransientError: of the store.
    """
    if given is not None:
        return given, await _given(digest, given)
    try:
        found = None if digest is None else await _guessed(Digest(digest), recorded, own)
        where = f"neither in {recorded} nor" if recorded else "not"
        reason = f"its source {digest} is {where} beside it" if digest else "it does not record its source's digest"
    except PermanentError as error:
        # Annotations that make no sense, a registry that is not allowed, or one that refuses us.
        found, reason = None, f"its source could not be looked up: {error.message}"
    if found is None:
        report.compared = False
        report.not_compared.append(reason)
    return found


async def _guessed(digest: Digest, recorded: str | None, own: Original) -> tuple[Original, ImageManifest] | None:
    for reference in ([parse_written(recorded)] if recorded else []) + [own.reference]:
        place = Original(own.store, replace(reference, tag=None, digest=digest))
        if await place.store.resolve(place.reference) is not None:
            manifest = await place.store.manifest(place.reference)
            if isinstance(manifest, ImageManifest):
                return place, manifest
    return None


async def _given(digest: str | None, given: Original) -> ImageManifest:
    """The image that was named, or the one of its platforms that is meant."""
    root = await given.store.manifest(given.reference)
    if isinstance(root, ImageManifest) and digest in {None, root.digest}:
        return root
    if isinstance(root, Index) and any(child.digest == digest for child in root.manifests):
        child = await given.store.manifest(replace(given.reference, tag=None, digest=Digest(str(digest))))
        if isinstance(child, ImageManifest):
            return child
    if digest is None:
        message = f"{given} is an index, and the image does not record which of its images it was made of"
    else:
        message = f"the image was made of {digest}, and {given} is {root.digest}"
        if isinstance(root, Index):
            message += ", an index without it"
    raise PermanentError(f"{message}: name its source by digest", code="source_differs")
