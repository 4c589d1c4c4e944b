"""An image's config: what every driver reads of it, and how it gets other layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.errors import PermanentError
from shared.oci.descriptor import Platform
from shared.oci.digest import Digest

MAXIMUM_CONFIG_SIZE = 8 << 20
"""Bytes; registries refuse manifests over 4 MiB, and configs are of the same order."""
_PLATFORM = ("os", "architecture", "variant", "os.version", "os.features")
"""What a config has in common with a descriptor's platform (config.md and image-index.md)."""


@dataclass(frozen=True)
class Config:
    """An image config: what the drivers read of it, and all that they leave alone."""

    raw: bytes
    """As it came."""
    data: Mapping[str, Any]
    diff_ids: Sequence[Digest]
    platform: Platform

    def with_diff_ids(self, diff_ids: Sequence[Digest]) -> bytes:
        """The config with other layers: its own bytes where they are the same; else key order and unknown keys survive."""
        if list(diff_ids) == list(self.diff_ids):
            return self.raw
        rootfs = {**self.data["rootfs"], "diff_ids": [str(diff_id) for diff_id in diff_ids]}
        return orjson.dumps({**self.data, "rootfs": rootfs})


def parse_config(raw: bytes, layers: int) -> Config:
    """An image config (OCI image spec, config.md) that must have one diff ID for each of ``layers``.

    Raises:
        PermanentError: ``invalid_config``.
    """
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise PermanentError(f"the image config is not JSON: {error}", code="invalid_config") from error
    rootfs = data.get("rootfs") if isinstance(data, dict) else None
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or not all(isinstance(diff_id, str) for diff_id in found):
        raise PermanentError("the image config has no list rootfs.diff_ids", code="invalid_config")
    if len(found) != layers:
        raise PermanentError(f"the image config has {len(found)} diff IDs for {layers} layers", code="invalid_config")
    platform = Platform.from_json({key: data[key] for key in _PLATFORM if key in data})
    return Config(raw, data, tuple(Digest(diff_id) for diff_id in found), platform)
