"""The machine that a consumer runs on: while it has too little of something, the consumer takes no work.

A conversion that fails for want of disk, open files, memory or threads (code ``local_resource``) says nothing of its image. It is
handed back for another consumer at no cost, as one whose registry is down is, and this consumer stops taking work: what it took
would fail as fast as it comes. After a pause the machine is asked for a little of what was missing (:mod:`consumer.supplies`), and
again after ever longer ones, whether or not anything waits in the queue. Once it gives that, one delivery is taken as a trial, and
after the first success all slots are filled again.

An image that wants more than there is must not circulate for ever, nor stop one consumer after the other. So a failure is the
image's own, and costs an attempt as any does, if both hold:

- it is not the first: the image was on trial, alone, or its last failure, here or elsewhere, was of this kind;
- the machine, asked right after it, has plenty of what was missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

from consumer.supplies import Supplies
from shared.exhausted import Resource
from shared.telemetry.metrics import Metrics

_WORDS: dict[Resource, str] = {"disk": "disk", "files": "open files", "memory": "memory", "threads": "threads"}
_log = logging.getLogger(__name__)


class Machine:
    """Args:
    pause: seconds without work at first; doubles while the machine lacks something and with each trial that fails, up to
        ``maximum_pause``.
    """

    def __init__(
        self,
        supplies: Supplies,
        metrics: Metrics,
        *,
        pause: float = 5,
        maximum_pause: float = 60,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._supplies = supplies
        self._metrics = metrics
        self._first_pause = self._pause = pause
        self._maximum_pause = maximum_pause
        self._sleep = sleep
        self._state: Literal["fit", "out", "trial"] = "fit"
        self._missing: dict[Resource, str] = {}
        """And how it was noticed."""
        self.change = asyncio.Event()
        """Set, once, when the state becomes another; then there is a new one."""

    @property
    def out(self) -> bool:
        """Whether no work is to be taken."""
        return self._state == "out"

    @property
    def on_trial(self) -> bool:
        """Whether one delivery at a time is to be taken."""
        return self._state == "trial"

    @property
    def reason(self) -> str:
        """Why no work is taken; empty when it is."""
        return "; ".join(f"out of {_WORDS[each]}: {how}" for each, how in self._missing.items())

    async def ran_out(self, resource: Resource, message: str, *, again: bool) -> bool:
        """A conversion failed for want of ``resource``: whether that is its image's own failure.

        Args:
            resource: of which there was too little.
            message: what the conversion was told.
            again: whether it was on trial, or has failed in this way before.
        """
        if again and await self._supplies.plenty(resource):
            return True
        if self.on_trial:
            self._pause = min(self._pause * 2, self._maximum_pause)
        known = resource in self._missing
        self._missing.setdefault(resource, message)
        self._metrics.out_of(resource, out=True)
        if not self.out:
            self._become("out")
        if not known:
            where = await self._supplies.state(resource)
            _log.warning("out of %s: %s; %s: no work is taken until there is more", _WORDS[resource], message, where)
        return False

    async def recovered(self) -> None:
        """Return once work may be taken."""
        while self.out:
            await self._sleep(self._pause)
            asked = dict(self._missing)
            lacking = [each for each in asked if await self._supplies.lacking(each)]
            if lacking or self._missing != asked:  # a conversion that still runs may have met the next want meanwhile
                self._pause = min(self._pause * 2, self._maximum_pause)
                continue
            for each in self._missing:
                self._metrics.out_of(each, out=False)
            self._missing.clear()
            self._become("trial")
            _log.info(
                "there is enough %s again: a delivery is taken as a trial", " and ".join(_WORDS[each] for each in asked)
            )

    def succeeded(self) -> None:
        """A conversion came to its end."""
        if self.on_trial:
            self._pause = self._first_pause
            self._become("fit")

    def _become(self, state: Literal["fit", "out", "trial"]) -> None:
        self._state = state
        self.change.set()
        self.change = asyncio.Event()
