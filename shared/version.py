"""Which build this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def service_version() -> str:
    """Of the installed distribution; ``source`` where nothing is installed."""
    try:
        return version("image-conversion-service")
    except PackageNotFoundError:
        return "source"
