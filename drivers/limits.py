"""What one layer may ask of the process that reads it: the driver's part of ``settings.limits``."""

from __future__ import annotations

from dataclasses import dataclass

RATIO_GRACE = 64 << 20
"""Uncompressed bytes below which no compression ratio is suspicious."""
DRIVER_MEMORY = 512 << 20
"""Half of the default ``limits.memory``."""


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """Exceeding one raises ``LimitExceededError`` that names it. Defaults are those of ``settings.limits``."""

    layer_size: int = 64 << 30
    """Bytes of one uncompressed layer."""
    layer_entries: int = 5_000_000
    compression_ratio: int = 1100
    """Uncompressed : compressed, above :data:`RATIO_GRACE`."""
    pax_record: int = 1 << 20
    """Bytes of the PAX and GNU records in front of one entry."""
    prioritized_size: int = 64 << 20
    """Bytes of the prioritised files of one layer, which are held in memory."""
    memory: int = DRIVER_MEMORY
    """Bytes of what a driver has at work in all layers of the process together; nobody is refused, but has to wait."""
