"""Which images of a source are converted: those of the selected platforms that are container images and not in the format yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shared.errors import SkippedError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.manifest import ImageManifest, Index

ATTESTATION_TYPE = "vnd.docker.reference.type"
ATTESTATION_SUBJECT = "vnd.docker.reference.digest"
_EMPTY_CONFIG = len(b"{}\r\n")
"""Bytes; artifacts have such a config, under whatever media type: Open Policy Agent's bundles under that of an image."""


def is_attestation(descriptor: Descriptor) -> bool:
    """Buildx's attestation manifests stand in an index for platform unknown/unknown."""
    unknown = descriptor.platform is not None and descriptor.platform.os == "unknown"
    return unknown or descriptor.annotations.get(ATTESTATION_TYPE) == "attestation-manifest"


def is_image(manifest: ImageManifest) -> bool:
    """An image with a config and layers, and not a signature, chart, SBOM or other artifact."""
    return (
        manifest.config.media_type in media_types.IMAGE_CONFIGS
        and manifest.config.size > _EMPTY_CONFIG
        and manifest.artifact_type in {None, "", manifest.config.media_type}
        and bool(manifest.layers)
    )


def selected(platform: Platform, wanted: Sequence[Platform]) -> bool:
    """Whether a selection (empty: all) names ``platform``."""
    return not wanted or any(platform.matches(each) for each in wanted)


def named(child: Descriptor) -> str:
    """An index's child as ``Result.left_out`` calls it."""
    return f"{child.platform or 'manifest'} ({child.digest.short})"


def check_image(manifest: ImageManifest, recognises: Callable[[ImageManifest], bool]) -> None:
    """Raises SkippedError unless ``manifest`` is a container image that is not in the format yet."""
    if recognises(manifest):
        raise SkippedError("already in the format")
    if not is_image(manifest):
        raise SkippedError("not a container image")


@dataclass(frozen=True, slots=True)
class Selection:
    """Of an index, in its order."""

    chosen: Sequence[tuple[Descriptor, ImageManifest]]
    """To be converted; at least one."""
    in_format: Sequence[tuple[Descriptor, ImageManifest]]
    left_out: Sequence[str]
    """The others with the reason, but for attestations: what becomes of those is the driver's business."""


async def select(
    index: Index,
    platforms: Sequence[Platform],
    *,
    read: Callable[[Descriptor], Awaitable[ImageManifest | Index]],
    recognises: Callable[[ImageManifest], bool],
) -> Selection:
    """Only manifests that may be wanted are read. Raises SkippedError if there is nothing to convert."""
    chosen: list[tuple[Descriptor, ImageManifest]] = []
    in_format: list[tuple[Descriptor, ImageManifest]] = []
    left_out: list[str] = []
    unselected = False
    for child in index.manifests:
        if is_attestation(child):
            continue
        if child.media_type in media_types.INDEXES:
            left_out.append(f"{named(child)}: an index in an index is not converted")
        elif child.media_type not in media_types.IMAGE_MANIFESTS:
            left_out.append(f"{named(child)}: {child.media_type} is not an image")
        elif child.platform is not None and not selected(child.platform, platforms):
            unselected = True
            left_out.append(f"{named(child)}: platform not selected")
        else:
            manifest = await read(child)
            if not isinstance(manifest, ImageManifest) or not is_image(manifest):
                left_out.append(f"{named(child)}: not a container image")
            else:
                (in_format if recognises(manifest) else chosen).append((child, manifest))
    if not chosen:
        if in_format:
            raise SkippedError("already in the format")
        if unselected:
            raise SkippedError("no selected platform")
        nested = any(child.media_type in media_types.INDEXES for child in index.manifests)
        raise SkippedError("an index of indexes" if nested else "not a container image")
    return Selection(chosen, in_format, left_out)
