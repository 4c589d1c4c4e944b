"""Descriptors and platforms (OCI image spec, descriptor.md and image-index.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shared.errors import PermanentError
from shared.oci.digest import Digest

_OF_CONTENT = frozenset({"data", "urls"})
"""Keys that hold the content itself, or say where it is too (descriptor.md, section Properties)."""


@dataclass(frozen=True, slots=True)
class Platform:
    """``os/architecture[/variant]``."""

    os: str
    architecture: str
    variant: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)
    """Keys that this model does not name (``os.version``, ``os.features``); they survive a round trip."""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``linux/arm64/v8`` → Platform.

        Raises:
            ValueError: not two or three non-empty parts.
        """
        parts = text.strip().split("/")
        if len(parts) not in {2, 3} or not all(parts):
            raise ValueError(f"not a platform (os/architecture[/variant]): {text!r}")
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Platform:
        known = {"os", "architecture", "variant"}
        return cls(
            os=str(data.get("os", "")),
            architecture=str(data.get("architecture", "")),
            variant=str(data.get("variant", "")),
            extra={key: value for key, value in data.items() if key not in known},
        )

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            data["variant"] = self.variant
        return data | dict(self.extra)

    def matches(self, wanted: Platform) -> bool:
        """Whether this platform is what a selection such as ``linux/arm64`` asks for."""
        return (
            self.os == wanted.os and self.architecture == wanted.architecture and wanted.variant in {"", self.variant}
        )

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points at a blob or a manifest."""

    media_type: str
    digest: Digest
    size: int
    """Bytes."""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    artifact_type: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)
    """Keys that this model does not name (``urls``, ``data`` ...); they survive a round trip."""

    @classmethod
    def from_json(cls, data: Any) -> Descriptor:
        """Parse one descriptor.

        Raises:
            PermanentError: code ``invalid_manifest``.
        """
        if not isinstance(data, dict):
            raise _invalid("a descriptor is not an object")
        media_type, digest, size = data.get("mediaType"), data.get("digest"), data.get("size")
        if not isinstance(media_type, str) or not isinstance(digest, str):
            raise _invalid("a descriptor lacks mediaType or digest")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise _invalid(f"a descriptor's size is not a number of bytes: {size!r}"[:200])
        annotations = data.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise _invalid("a descriptor's annotations are not an object")
        platform = data.get("platform")
        if platform is not None and not isinstance(platform, dict):
            raise _invalid("a descriptor's platform is not an object")
        artifact_type = data.get("artifactType")
        known = {"mediaType", "digest", "size", "annotations", "platform", "artifactType"}
        return cls(
            media_type=media_type,
            digest=Digest(digest),
            size=size,
            annotations={str(key): str(value) for key, value in annotations.items()},
            platform=None if platform is None else Platform.from_json(platform),
            artifact_type=artifact_type if isinstance(artifact_type, str) and artifact_type else None,
            extra={key: value for key, value in data.items() if key not in known},
        )

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            data["annotations"] = dict(self.annotations)
        if self.platform is not None:
            data["platform"] = self.platform.to_json()
        if self.artifact_type:
            data["artifactType"] = self.artifact_type
        return data | dict(self.extra)

    def pointing_at(self, other: Descriptor) -> Descriptor:
        """``other`` where this one stands: its annotations, platform and unknown keys, but nothing that was of its own content."""
        extra = {key: value for key, value in self.extra.items() if key not in _OF_CONTENT}
        return replace(self, media_type=other.media_type, digest=other.digest, size=other.size, extra=extra)

    def with_annotations(self, **annotations: str) -> Descriptor:
        return replace(self, annotations={**self.annotations, **annotations})


def _invalid(message: str) -> PermanentError:
    return PermanentError(message, code="invalid_manifest")
