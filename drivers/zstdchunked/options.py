"""``driver.config`` of the zstd:chunked driver."""

from __future__ import annotations

from pydantic import Field

from drivers.api import DriverOptions


class ZstdChunkedOptions(DriverOptions):
    """Every default is the Go builder's."""

    compression_level: int = Field(default=3, ge=1, le=19)
    """Of zstd: 1 is fastest, 19 smallest."""
    chunk_size: int = Field(default=4 << 20, ge=64 << 10, le=32 << 20)
    """Payload bytes a chunk, which is what one lazy read fetches at least."""
    with_referrer: bool = False
    """Set ``subject`` on every platform's manifest where source and target repository are the same."""
