"""Prioritised files: found in a first pass over the layer, with what must stand in front of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from posixpath import dirname

from drivers.estargz.layout import RESERVED_NAMES
from drivers.inflate import Inflater
from drivers.limits import LayerLimits
from drivers.tar.entry import GLOBAL_PAX, HARD_LINK, TarEntry, clean
from drivers.tar.parser import TarParser
from shared.errors import LimitExceededError


@dataclass(slots=True)
class Prioritized:
    """An entry held in memory."""

    entry: TarEntry
    payload: bytearray = field(default_factory=bytearray)


class PriorityScan:
    """One pass that gathers wanted entries; of those that occur twice, the last.

    Args:
        paths: wanted, cleaned; their parent directories are added.

    Raises:
        LimitExceededError: they are larger than ``limits.prioritized_size``.
    """

    def __init__(self, paths: Sequence[str], limits: LayerLimits) -> None:
        self._limits = limits
        self._inflater = Inflater(limits)
        self._parser = TarParser(limits)
        self._wanted = {parent for path in paths for parent in _with_parents(path)}
        self._found: dict[str, Prioritized] = {}
        self._current: Prioritized | None = None
        self._held = 0

    def feed(self, data: bytes) -> None:
        """Compressed bytes of the source."""
        for piece in self._inflater.feed(data):
            self._tar(piece)

    def finish(self) -> None:
        """After the last byte."""
        for piece in self._inflater.finish():
            self._tar(piece)
        self._parser.finish()

    def missing_targets(self) -> list[str]:
        """Targets of wanted hard links that this pass did not look for: another pass must."""
        links = (item.entry for item in self._found.values() if item.entry.type == HARD_LINK)
        return sorted({target for target in (clean(link.link) for link in links) if target not in self._wanted})

    def order(self, paths: Sequence[str]) -> list[Prioritized]:
        """The entries found in the order of ``paths``, each after its parents and its link's target, each once."""
        ordered: dict[str, Prioritized] = {}
        for path in paths:
            self._pick(path, ordered, set())
        return list(ordered.values())

    def _pick(self, path: str, ordered: dict[str, Prioritized], underway: set[str]) -> None:
        item = self._found.get(path)
        if item is None or path in ordered or path in underway:
            return
        underway.add(path)
        for parent in _with_parents(path):
            if parent != path and parent in self._found:
                ordered.setdefault(parent, self._found[parent])
        if item.entry.type == HARD_LINK:
            self._pick(clean(item.entry.link), ordered, underway)
        ordered.setdefault(path, item)

    def _tar(self, piece: bytes) -> None:
        for event in self._parser.feed(piece):
            if isinstance(event, TarEntry):
                path = clean(event.name)
                self._current = None
                if path not in self._wanted or path in RESERVED_NAMES or event.type == GLOBAL_PAX:
                    continue
                earlier = self._found.pop(path, None)
                if earlier is not None:
                    self._held -= earlier.entry.size + len(earlier.entry.raw)
                self._held += event.size + len(event.raw)
                if self._held > self._limits.prioritized_size:
                    message = f"the prioritised files of a layer exceed {self._limits.prioritized_size} bytes (prioritized_size)"
                    raise LimitExceededError(message, limit="prioritized_size")
                self._current = self._found[path] = Prioritized(event)
            elif self._current is not None:
                self._current.payload += event


def _with_parents(path: str) -> list[str]:
    """The root, every directory on the way, and the path."""
    chain = [path]
    while path:
        path = dirname(path)
        chain.append(path)
    return chain[::-1]
