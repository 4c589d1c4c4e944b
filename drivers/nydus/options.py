"""The Nydus driver's options: Harbor's proposal first, then what goes beyond it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from drivers.api import DriverOptions
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.layout import MAXIMUM_CHUNK_SIZE, MINIMUM_CHUNK_SIZE, Compressor, Digester

_COMPRESSORS = {"zstd": Compressor.ZSTD, "lz4_block": Compressor.LZ4_BLOCK, "none": Compressor.NONE}
_DIGESTERS = {"blake3": Digester.BLAKE3, "sha256": Digester.SHA256}


class NydusOptions(DriverOptions):
    """Sizes in bytes. Every default gives what ``nydusify`` gives by default."""

    multi_platform: bool = False
    """Publish one index with the original manifests beside the Nydus ones (acceld's ``merge_manifest``)."""
    work_dir: str | None = None
    """Where an external builder's files go; the system's temporary directory by default. The native builder writes none."""
    builder_path: str | None = None
    """An external ``nydus-image``; unset means the native builder."""
    build_cache_tag: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")
    """A tag of the target repository that records converted layers."""
    build_cache_version: str = "v1"
    """Records of another version are dropped."""
    build_cache_size: int = Field(default=200, ge=1, le=1000)
    """Layers that the record holds; the oldest leave first."""
    compressor: Literal["zstd", "lz4_block", "none"] = "zstd"
    """Of chunks; ``lz4_block`` inflates fastest, ``zstd`` is smallest."""
    compression_level: int = Field(default=3, ge=1, le=19)
    """Of zstd."""
    digester: Literal["blake3", "sha256"] = "blake3"
    """Of chunks."""
    chunk_size: int = 0x100000
    """Bytes: a power of two from 4096 to 16777216."""
    share_chunks: bool = True
    """Equal chunks of several layers are read from the lowest of them. (Inside a layer, equal chunks are always stored once.)"""
    fs_version: Literal["6", 6] = "6"
    """RAFS v6 only: the readers of 5 are deprecated."""
    oci_ref: bool = False
    """Leave the gzip layers as they are and refer to them: the result is an index of each (zran), no second copy of the data."""
    with_referrer: bool = False
    """Set ``subject`` on every platform's manifest where source and target repository are the same."""
    prefetch_patterns: list[str] = Field(default=["/"])
    """Paths whose content a reader fetches ahead; ``/`` is everything."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_formats(cls, values: object) -> object:
        if isinstance(values, dict) and str(values.get("fs_version", "6")) == "5":
            raise ValueError("fs_version 5 (RAFS v5) is not supported: its readers are deprecated; use 6")
        return values

    @field_validator("chunk_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1) or not MINIMUM_CHUNK_SIZE <= value <= MAXIMUM_CHUNK_SIZE:
            raise ValueError("chunk_size must be a power of two from 4096 to 16777216")
        return value

    @field_validator("prefetch_patterns")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if not pattern.startswith("/") or "\n" in pattern:
                raise ValueError(f"a prefetch pattern is an absolute path: {pattern!r}")
        return value

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if self.oci_ref:
            for name in ("builder_path", "compressor", "compression_level", "digester", "chunk_size"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} has no meaning with oci_ref: the data stays as it is in the source's layers"
                    )
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.with_referrer and self.multi_platform:
            raise ValueError(
                "with_referrer and multi_platform exclude each other: beside its original, a Nydus manifest has a config media "
                "type that Harbor does not take for an accessory"
            )
        if self.builder_path is not None:
            for name in ("digester", "compression_level"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} belongs to the native builder; nydus-image (builder_path) chooses its own"
                    )
        return self

    @property
    def parameters(self) -> Parameters:
        return Parameters(
            compressor=Compressor.GZIP if self.oci_ref else _COMPRESSORS[self.compressor],
            digester=Digester.SHA256 if self.oci_ref else _DIGESTERS[self.digester],
            chunk_size=self.chunk_size,
            level=self.compression_level,
            prefetch_patterns=tuple(self.prefetch_patterns),
            share_chunks=self.share_chunks,
        )
