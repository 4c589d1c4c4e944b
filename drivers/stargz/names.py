"""The names of a layer's entries."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Final

from drivers.api import UnconvertibleLayerError


class Names:
    """Which paths a layer has had: finds paths that occur twice and hard links that lead nowhere or to directories.

    It takes 8 bytes an entry, 16 a directory.

    64-bit hashes, seeded anew in every process: what they suspect is checked against the names themselves.
    """

    _BITS: Final = 1 << 25

    def __init__(self) -> None:
        self._hashes = array("q")
        self._directories = array("q")
        self._bitmap = bytearray(self._BITS >> 3)
        self._suspects: set[int] = set()
        self._targets: dict[int, str] = {}

    def __len__(self) -> int:
        """Entries so far."""
        return len(self._hashes)

    def add(self, path: str, *, directory: bool) -> None:
        """The next entry's cleaned path, in order of the table."""
        hashed = hash(path)
        self._hashes.append(hashed)
        if directory:
            self._directories.append(hashed)
        bit = hashed & (self._BITS - 1)
        index, mask = bit >> 3, 1 << (bit & 7)
        if self._bitmap[index] & mask:
            self._suspects.add(hashed)
        else:
            self._bitmap[index] |= mask

    def link(self, target: str) -> None:
        """The cleaned target of the hard link that was added last; it must have come before.

        Raises:
            UnconvertibleLayerError: it has not, or is the link itself, which readers would follow for ever.
        """
        hashed = hash(target)
        bit = hashed & (self._BITS - 1)
        if not self._bitmap[bit >> 3] & (1 << (bit & 7)) or hashed == self._hashes[-1]:
            raise _dangling(target)
        self._targets.setdefault(hashed, target)

    def suspects(self) -> dict[int, int]:
        """Entry number → hash, for every entry whose path may occur more than once; also checks the links.

        Raises:
            UnconvertibleLayerError: a hard link's target is not in the layer.
        """
        if self._targets:
            missing = set(self._targets).difference(self._hashes)
            if missing:
                raise _dangling(min(self._targets[hashed] for hashed in missing))
        if not self._suspects:
            return {}
        suspects = self._suspects
        found = {number: hashed for number, hashed in enumerate(self._hashes) if hashed in suspects}
        times = Counter(found.values())  # most only share a bit with another
        return {number: hashed for number, hashed in found.items() if times[hashed] > 1}

    def linked_directories(self) -> set[int]:
        """Hashes of hard links' targets that are nothing but directories."""
        linked = set(self._targets).intersection(self._directories)
        if not linked:
            return linked
        entries = Counter(hashed for hashed in self._hashes if hashed in linked)
        entries.subtract(hashed for hashed in self._directories if hashed in linked)
        return {hashed for hashed in linked if not entries[hashed]}

    def is_target(self, path: str) -> bool:
        return hash(path) in self._targets


def _dangling(target: str) -> UnconvertibleLayerError:
    return UnconvertibleLayerError(f"a hard link's target, {target[:200]!r}, does not come before it in the same layer")
