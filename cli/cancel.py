"""``ics cancel``: end conversions that are not wanted any more, by id or all that match."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Collection
from contextlib import aclosing
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.actor import actor
from cli.errors import Exit
from cli.filters import ConditionOptions
from cli.option_groups import grouped
from cli.options import (
    ConfigOption,
    DryRunOption,
    Output,
    OutputOption,
    YesOption,
    confirm,
    print_json,
)
from cli.running import running
from cli.settings import settings_for
from ingress.status.cancelling import NotCancellableError, by_status, cancel, cancel_matching, matching, prospect
from ingress.status.conversion import Conversion
from ingress.status.history import History
from ingress.status.stored_event import decode_stored
from shared.broker.api import Broker
from shared.broker.open import open_broker, require_existing
from shared.broker.passed_over import PassedOver
from shared.request_filter import RequestFilter
from shared.settings.model import Settings

_SUBJECT = re.compile(rb'"subject":\s*"([^"]*)"')
_SHOWN = 5000
"""Messages between two signs of life on a terminal."""


class Status(StrEnum):
    """:data:`ingress.status.conversion.OPEN`, as the command line's library wants it for what is repeatable."""

    QUEUED = "queued"
    CONVERTING = "converting"
    LOST = "lost"
    RETRYING = "retrying"


@grouped
def cancel_command(
    *,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Conversions by id, as console and API show it.")] = [],  # noqa: B006  typer reads it, nobody writes it
    which: ConditionOptions,
    status: Annotated[list[Status], typer.Option("--status", "-s", help="Only these; repeatable.")] = [],  # noqa: B006
    every: Annotated[bool, typer.Option("--all", help="Every conversion that has not ended.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Cancel conversions: what runs stops within seconds, what waits ends unconverted.

    By id it asks nothing; by filter it shows a count first. It is no rollback: one that has put its tag ends as succeeded, and its
    target stays. What is pushed, replayed or backfilled after it converts as ever.

    Exit code 1 when one of the ids cannot be cancelled, 2 when there is nobody to ask and no `--yes`, 5 when the answer is no.

    Examples:
    - `ics cancel 5f0c... 77ab...`
    - `ics cancel --priority backfill --repository 'library/*' --status queued --dry-run`
    """
    where = RequestFilter(statuses=frozenset(each.value for each in status), **which.conditions())
    if (where != RequestFilter() or every) == bool(ids):
        raise typer.BadParameter("name conversions by id, or by filters, or say --all")
    if ids and dry_run:
        raise typer.BadParameter("--dry-run is for filters")
    if ids:
        _by_id(config, list(dict.fromkeys(ids)), output)
    else:
        _by_filter(config, where, output, dry_run=dry_run, yes=yes)


def _by_id(config: Path | None, ids: list[str], output: Output) -> None:
    with running() as runner:
        answers = runner.run(_cancel_each(config, ids))
    if output is Output.JSON:
        print_json(answers)
    for answer in answers:
        if "error" in answer:
            print(f"ics: {answer['error']} [{answer['code']}]", file=sys.stderr)
        elif output is Output.TEXT:
            print(f"{answer['id']} {answer['status']}: {answer['prospect']}")
    if any("error" in answer for answer in answers):
        raise typer.Exit(Exit.PERMANENT)


async def _cancel_each(config: Path | None, ids: list[str]) -> list[dict[str, str]]:
    settings = settings_for(config)
    require_existing(settings)
    async with open_broker(settings) as broker:
        await broker.check_health()
        history = await _history(settings, broker, ids)
        return [await _cancel(broker, history, each) for each in ids]


async def _cancel(broker: Broker, history: History, conversion_id: str) -> dict[str, str]:
    try:
        found = await cancel(broker, history, conversion_id, actor())
    except NotCancellableError as error:
        return {"id": conversion_id, "error": error.message, "code": error.code}
    return {"id": found.id, "status": found.status, "prospect": prospect(found)}


def _by_filter(config: Path | None, where: RequestFilter, output: Output, *, dry_run: bool, yes: bool) -> None:
    until = datetime.now(UTC)  # what is accepted while somebody reads the question was not asked about
    with running() as runner:
        found = runner.run(_find(config, where, until))
        counts = by_status(found)
        words = ", ".join(f"{count} {status}" for status, count in counts.items())
        if output is Output.JSON and (dry_run or not found):
            print_json(
                {"would": "cancel", "count": len(found), "by_status": counts, "ids": [each.id for each in found]}
            )
        elif not found:
            print("no conversion that has not ended matches")
        elif dry_run:
            for each in found:
                print(
                    each.id, each.status, f"{each.ref}:{each.tag}" if each.tag else f"{each.ref}@{each.source_digest}"
                )
            print(f"would cancel {len(found)}: {words}")
        if dry_run or not found:
            return
        if not yes:
            confirm(f"Cancel {len(found)} conversion(s), {words}?")
        runner.run(_tell(config, where, until))
    if output is Output.JSON:
        print_json({"count": len(found), "by_status": counts, "accepted_until": until.isoformat()})
    else:
        print(f"{len(found)} cancelled, {words}: what runs stops within seconds, what waits ends when its turn comes")


async def _find(config: Path | None, where: RequestFilter, until: datetime) -> list[Conversion]:
    settings = settings_for(config)
    require_existing(settings)
    async with open_broker(settings) as broker:
        await broker.check_health()
        history = await _history(settings, broker)
    history.lose_sight(time.time() - settings.timeouts.conversion - settings.timeouts.drain)
    return await matching(history, where, until)


async def _tell(config: Path | None, where: RequestFilter, until: datetime) -> None:
    async with open_broker(settings_for(config)) as broker:
        await cancel_matching(broker, where, until, actor())


async def _history(settings: Settings, broker: Broker, ids: Collection[str] = ()) -> History:
    """What the event stream says of ``ids``, and everything else in it not even decoded; without any, of all."""
    history = History(settings.console.history, settings.broker.events_max_age)
    wanted = {each.encode() for each in ids}
    read, passed_over = 0, PassedOver("history")
    async with aclosing(broker.events.bodies(follow=False)) as bodies:
        async for body in bodies:
            if wanted and wanted.isdisjoint(_SUBJECT.findall(body)):
                continue
            for event in decode_stored(body, passed_over):
                if not wanted or event["subject"].encode() in wanted:
                    history.apply(event)
            read += 1
            if read % _SHOWN == 0 and sys.stderr.isatty():
                print(f"\r{len(history)} conversions read", end="", file=sys.stderr, flush=True)
    if read >= _SHOWN and sys.stderr.isatty():
        print(file=sys.stderr)
    return history
