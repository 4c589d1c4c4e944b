"""``ics cancel``: end conversions that are not wanted any more."""

from __future__ import annotations

import re
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from cli.actor import actor
from cli.errors import Exit
from cli.options import ConfigOption, Output, OutputOption, print_json
from cli.running import running
from cli.settings import settings_for
from ingress.status.cancelling import NotCancellableError, cancel, prospect
from ingress.status.history import History
from ingress.status.stored_event import decode_stored
from shared.broker.api import Broker, EventStream
from shared.broker.open import open_broker, require_existing

_SUBJECT = re.compile(rb'"subject":\s*"([^"]*)"')


def cancel_command(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Conversions by id, as console and API show it.")],
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Cancel conversions: what runs stops within seconds, what waits ends unconverted.

    It is no rollback: one that has put its tag ends as succeeded, and its target stays. A push, a replay or a backfill after it
    converts as ever.

    Example: `ics cancel 5f0c... 77ab...`
    """
    with running() as runner:
        answers = runner.run(_cancel_all(config, list(dict.fromkeys(ids))))
    if output is Output.JSON:
        print_json(answers)
    for answer in answers:
        if "error" in answer:
            print(f"ics: {answer['error']} [{answer['code']}]", file=sys.stderr)
        elif output is Output.TEXT:
            print(f"{answer['id']} {answer['status']}: {answer['prospect']}")
    if any("error" in answer for answer in answers):
        raise typer.Exit(Exit.PERMANENT)


async def _cancel_all(config: Path | None, ids: list[str]) -> list[dict[str, str]]:
    settings = settings_for(config)
    require_existing(settings)
    async with open_broker(settings) as broker:
        await broker.check_health()
        history = await _history(broker.events, ids, settings.broker.events_max_age)
        return [await _cancel(broker, history, each) for each in ids]


async def _cancel(broker: Broker, history: History, conversion_id: str) -> dict[str, str]:
    try:
        found = await cancel(broker, history, conversion_id, actor())
    except NotCancellableError as error:
        return {"id": conversion_id, "error": error.message, "code": error.code}
    return {"id": found.id, "status": found.status, "prospect": prospect(found)}


async def _history(events: EventStream, ids: list[str], max_age: float) -> History:
    """What the event stream says of ``ids``; everything else in it is not even decoded."""
    history = History(max_age=max_age)
    wanted = {each.encode() for each in ids}
    async with aclosing(events.bodies(follow=False)) as bodies:
        async for body in bodies:
            if wanted.isdisjoint(_SUBJECT.findall(body)):
                continue
            try:
                found = decode_stored(body)
            except ValidationError:
                continue
            for event in found:
                if event["subject"].encode() in wanted:
                    history.apply(event)
    return history
