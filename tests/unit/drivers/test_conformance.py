"""Every driver passes the suite of ``drivers.testing``; so does a format that ICS does not know."""

from __future__ import annotations

import pytest

from drivers.api import Driver, DriverOptions
from drivers.estargz import EstargzDriver
from drivers.limits import LayerLimits
from drivers.nydus import NydusDriver
from drivers.nydus.options import NydusOptions
from drivers.testing import DriverConformance
from drivers.zstdchunked import ZstdChunkedDriver
from shared.errors import UnsupportedError
from tests.toy_format import ToyDriver


class TestEstargz(DriverConformance):
    def make(self, limits: LayerLimits) -> Driver:
        return EstargzDriver(limits)


class TestNydus(DriverConformance):
    def make(self, limits: LayerLimits) -> Driver:
        return NydusDriver(limits)


class TestNydusReferences(DriverConformance):
    def make(self, limits: LayerLimits) -> Driver:
        return NydusDriver(limits)

    def option(self) -> DriverOptions:
        return NydusOptions(oci_ref=True)

    async def test_the_compression_of_the_source_makes_no_difference(self) -> None:
        """It does: what is referred to is the gzip stream itself."""
        for kind in ("zstd", "none"):
            with pytest.raises(UnsupportedError, match="gzip layers only"):
                await self.sample(compression=kind)


class TestZstdChunked(DriverConformance):
    def make(self, limits: LayerLimits) -> Driver:
        return ZstdChunkedDriver(limits)


class TestAnotherFormat(DriverConformance):
    def make(self, limits: LayerLimits) -> Driver:
        return ToyDriver(limits)
