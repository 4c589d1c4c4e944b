"""Harbor's rule for what it shows as an ``accelerator.nydus`` accessory (``src/server/middleware/subject``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drivers.nydus import media
from shared.oci import media_types


def is_nydus_accessory(manifest: Mapping[str, Any]) -> bool:
    """All four conditions, on a manifest as it was pushed."""
    config_type = manifest["config"]["mediaType"]
    return (
        "subject" in manifest
        and config_type in {media_types.OCI_CONFIG, media_types.DOCKER_CONFIG}
        and manifest.get("artifactType", config_type) == config_type
        and media.NYDUS_BOOTSTRAP in manifest["layers"][-1].get("annotations", {})
    )
