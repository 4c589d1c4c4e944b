"""A consumer in a process of its own that dies, without a word, at the moment that its argument names.

``converting``: once the start of its conversion is in the history. ``failed``, ``skipped``: as soon as the delivery that ended so
is settled. ``buried``: as soon as the dead letter is confirmed, before the delivery is settled.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from drivers.api import DriverOptions
from shared.broker.amqp.dead_letters import AmqpDeadLetters
from shared.broker.delivery import QueuedDelivery
from shared.broker.jetstream.dead_letters import JetStreamDeadLetters
from shared.broker.open import open_broker
from shared.errors import PermanentError, SkippedError
from shared.messages import ConversionRequest
from shared.settings.load import load_settings
from tests.unit.consumer.at_work import Scripted, at_work


def dying_after(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def dying(*arguments: Any) -> None:
        await method(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    return dying


async def main(moment: str) -> None:
    settings = load_settings(None, environ=dict(os.environ), option_models={"none": DriverOptions})

    async def convert(request: ConversionRequest) -> None:
        if moment == "skipped":
            raise SkippedError("up to date")
        if moment != "converting":
            raise PermanentError("not for you", code="denied")
        async with open_broker(settings) as broker:
            async for event in broker.events.read():
                if (
                    event.kind == "started"
                    and event.subject == request.id
                    and event.data.consumer.endswith(f"/{os.getpid()}")
                ):
                    os.kill(os.getpid(), signal.SIGKILL)

    methods: dict[str, list[tuple[type, str]]] = {
        "buried": [(AmqpDeadLetters, "put"), (JetStreamDeadLetters, "put")],
        "failed": [(QueuedDelivery, "_bury")],
        "skipped": [(QueuedDelivery, "_acknowledge")],
    }
    for owner, method in methods.get(moment, ()):
        setattr(owner, method, dying_after(getattr(owner, method)))
    async with at_work(Scripted(convert), settings):
        await asyncio.sleep(120)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
