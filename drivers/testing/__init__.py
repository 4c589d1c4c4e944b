"""For the tests of drivers: a registry in memory, small images, and the suite that every driver passes."""

from drivers.testing.suite import DriverConformance

__all__ = ["DriverConformance"]
