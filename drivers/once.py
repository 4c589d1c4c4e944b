"""A layer is converted once: by one conversion of this process, and by one of all consumers that share the cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from drivers.api import Content
from shared.oci.descriptor import Descriptor

T = TypeVar("T")
LOOK_AGAIN_AFTER = 0.1
"""Seconds after which nothing found may be something by now: another consumer may have finished while this layer queued."""


async def converted_once(
    content: Content,
    layer: Descriptor,
    fingerprint: str,
    *,
    slots: asyncio.Semaphore,
    find: Callable[[], Awaitable[T | None]],
    convert: Callable[[], Awaitable[T]],
) -> T:
    """What ``layer`` became, here or elsewhere.

    Args:
        content: of the conversion.
        layer: the source layer.
        fingerprint: of what determines the converted bytes.
        slots: layers that the conversion converts at once; whoever waits for another's work holds none.
        find: looks for what another conversion made.
        convert: makes it, and remembers it before it returns.
    """
    async with content.layer_lock(layer, fingerprint):
        found = await find()
        if found is not None:
            return found
        looked = time.monotonic()
        async with slots, content.layer_memory(), content.layer_claim(layer, fingerprint) as ours:
            if ours:
                found = await find() if time.monotonic() - looked > LOOK_AGAIN_AFTER else None
                return found if found is not None else await convert()
        await content.layer_elsewhere(layer, fingerprint)
        found = await find()
        if found is not None:
            return found
        # The other consumer could not record it, or did not come to its end. No claim and no second wait: where nothing can be
        # recorded, consumers that waited for each other would convert one after the other.
        async with slots, content.layer_memory():
            return await convert()
