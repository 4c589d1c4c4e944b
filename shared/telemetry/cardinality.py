"""How many label values a process may show: webhooks choose repository and tag names, so the number must be bounded here."""

from __future__ import annotations

import threading

OTHER = "_other"
"""Label value of everything beyond a cap."""


class RefTagLabels:
    """Admits ``cap`` distinct (ref, tag) pairs; afterwards ``(ref, _other)`` for up to ``cap`` refs, then ``(_other, _other)``.

    At most ``2 * cap + 1`` pairs ever come out. The answer for a pair never changes once given as itself, and a pair refused
    once stays refused, so that a gauge which goes up under one label goes down under the same.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._pairs: set[tuple[str, str]] = set()
        self._refs: set[str] = set()
        self._lock = threading.Lock()

    def admit(self, ref: str, tag: str) -> tuple[str, str]:
        pair = (ref, tag)
        with self._lock:
            if pair in self._pairs:
                return pair
            if len(self._pairs) < self._cap:
                self._pairs.add(pair)
                self._refs.add(ref)
                return pair
            if ref in self._refs:
                return (ref, OTHER)
            if len(self._refs) < self._cap:
                self._refs.add(ref)
                return (ref, OTHER)
        return (OTHER, OTHER)


class LabelValues:
    """Admits ``cap`` distinct values of one label (error codes, hosts), then ``_other``."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._values: set[str] = set()

    def admit(self, value: str) -> str:
        if value in self._values:
            return value
        if len(self._values) < self._cap:
            self._values.add(value)
            return value
        return OTHER
