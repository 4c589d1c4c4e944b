"""``driver.config`` of the eStargz driver."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from drivers.api import DriverOptions

DEFAULT_CHUNK_SIZE: Final = 4 << 20
MINIMUM_CHUNK_SIZE: Final = 64 << 10


class EstargzOptions(DriverOptions):
    """The Harbor proposal's keys, and what goes beyond them."""

    estargz_compression_level: int = Field(default=-1, ge=-1, le=9)
    """0 stores, 1 is fastest, 9 smallest, as for gzip; the numbers are libdeflate's levels.

    -1, no larger than the Go builder's 9 in any layer measured, keeps the matches that a gzip layer's own compressor found,
    in half the time, where samples show that they are good enough (gzip's level 6 for all, Go's 6 for text). Else it takes for
    each file (or chunk of one) what its content asks for: 0 where it does not shrink (archives, pictures), 5 for other binary
    data and for up to 4 KiB of anything; for text 6, or 7 between 16 and 256 KiB, or 5 where what stands before it in the
    layer has saved as much as that costs.
    """
    estargz_chunk_size: int = Field(default=0, ge=0, le=32 << 20)
    """Payload bytes a chunk, which is what one lazy read fetches at least: 65536 to 33554432; 0 means 4 MiB."""
    uncompress: bool = False
    """Only inflate the layers: plain tar, same diff ID, **not** lazily pullable (for registries or disks that compress)."""
    prioritized_files: tuple[str, ...] = ()
    """Paths to put first and to fetch at mount (``.prefetch.landmark``), in this order; a layer passes over what it lacks."""

    with_referrer: bool = False
    """Set ``subject`` on every platform's manifest where source and target repository are the same."""

    @field_validator("estargz_chunk_size")
    @classmethod
    def _not_tiny(cls, value: int) -> int:
        """Each chunk costs a gzip member and a line of the table."""
        if 0 < value < MINIMUM_CHUNK_SIZE:
            message = f"must be 0 (meaning {DEFAULT_CHUNK_SIZE}) or at least {MINIMUM_CHUNK_SIZE}"
            raise ValueError(message)
        return value

    @property
    def chunk_size(self) -> int:
        """Bytes."""
        return self.estargz_chunk_size or DEFAULT_CHUNK_SIZE
