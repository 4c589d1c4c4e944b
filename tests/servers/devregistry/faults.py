"""Programmable faults: what goes wrong at the n-th request whose method and path match."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["delay", "hang", "status", "truncate", "reset", "corrupt", "drop_request"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule.

    - ``delay``: the answer comes ``seconds`` late.
    - ``hang``: it never comes.
    - ``status``: ``status`` is answered instead, with ``headers`` and ``body``.
    - ``truncate``: the connection closes cleanly after ``after`` bytes of the answer's body.
    - ``reset``: the same with a TCP reset; before the head if ``after`` is 0.
    - ``corrupt``: the first byte of the body is another one.
    - ``drop_request``: the connection is reset after ``after`` bytes of an upload's body were kept.
    """

    kind: Kind
    method: str = "*"
    path: str = ".*"
    """A regular expression that has to match somewhere in the path with its query."""
    first: int = 1
    """The first matching request that it hits, counted from 1."""
    times: int = 1
    """How many matching requests in a row; 0 means all that follow."""
    seconds: float = 0.0
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: int = 0
    """Bytes."""

    def matches(self, method: str, path: str) -> bool:
        return self.method in {"*", method} and re.search(self.path, path) is not None

    def hits(self, count: int) -> bool:
        return count >= self.first and (self.times == 0 or count < self.first + self.times)


class FaultPlan:
    """The faults of one registry; may be changed while it runs."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._counted: list[list[int]] = []
        self._faults: list[Fault] = []
        self.injected = 0
        """Faults that happened."""
        self.released = asyncio.Event()
        """Set to let go of every request that hangs."""
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)
        self._counted.append([0])

    def clear(self) -> None:
        self._faults.clear()
        self._counted.clear()

    def take(self, method: str, path: str) -> list[Fault]:
        """Count one request; the faults that hit it."""
        hit = []
        for fault, counted in zip(self._faults, self._counted, strict=True):
            if fault.matches(method, path):
                counted[0] += 1
                if fault.hits(counted[0]):
                    hit.append(fault)
        self.injected += len(hit)
        return hit
