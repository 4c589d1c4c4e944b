"""A fast streaming tar reader: pushed bytes in, entries and payload out, raw header bytes kept."""

from drivers.tar.entry import TarEntry
from drivers.tar.parser import TarParser

__all__ = ["TarEntry", "TarParser"]
