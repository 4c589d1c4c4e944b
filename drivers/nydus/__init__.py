"""Nydus: RAFS v6 images, mounted by the kernel or nydusd before their content is there."""

from drivers.nydus.driver import NydusDriver

__all__ = ["NydusDriver"]
