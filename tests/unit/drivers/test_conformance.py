"""Every driver passes the suite of ``drivers.testing``; so does a format that ICS does not know."""

from __future__ import annotations

from drivers.api import Driver
from drivers.estargz import EstargzDriver
from drivers.limits import LayerLimits
from drivers.nydus import NydusDriver
from drivers.testing import DriverConformance
from tests.toy_format import ToyDriver


class TestEstargz(DriverConformance):
    def make(self, limits: LayerLimits) -> Driver:
        return EstargzDriver(limits)


class TestNydus(DriverConformance):
    def make(self, limits: LayerLimits) -> Driver:
        return NydusDriver(limits)


class TestAnotherFormat(DriverConformance):
    def make(self, limits: LayerLimits) -> Driver:
        return ToyDriver(limits)
