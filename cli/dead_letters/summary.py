"""Dead letters by their error: what there is most of, and what each asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from rich.table import Table

from cli.dead_letters.work import with_letters
from cli.filters import ConditionOptions
from cli.option_groups import grouped
from cli.options import ConfigOption, Output, OutputOption, ago, console, print_json
from shared.broker.api import DeadLetterFilter
from shared.explanations import explain
from shared.messages import DeadLetter

_SHOWN = 3
"""Repositories that are named for each error; the others are counted."""


@dataclass(slots=True)
class _OfOneCode:
    repositories: dict[str, int]
    oldest: datetime
    newest: datetime
    count: int = 0

    def add(self, letter: DeadLetter) -> None:
        repository = letter.request.ref if letter.request else ""
        self.repositories[repository] = self.repositories.get(repository, 0) + 1
        self.oldest, self.newest = min(self.oldest, letter.died_at), max(self.newest, letter.died_at)
        self.count += 1


@grouped
def summary(
    *,
    which: ConditionOptions,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Count dead letters by error code, with the cause and what to do next. Look here first.

    Example: `ics dead-letters summary --newer-than 1d`
    """
    where = DeadLetterFilter(**which.conditions())
    found = with_letters(config, lambda work: _by_code(work.broker.dead_letters.list(where)))
    ordered = sorted(found.items(), key=lambda item: (-item[1].count, item[0]))
    if output is Output.JSON:
        print_json(
            [
                {
                    "code": code,
                    "count": group.count,
                    "repositories": dict(_most_first(group.repositories)),
                    "oldest": group.oldest.isoformat(),
                    "newest": group.newest.isoformat(),
                    "cause": explain(code).cause,
                    "next_step": explain(code).next_step,
                }
                for code, group in ordered
            ]
        )
        return
    out = console()
    if not found:
        out.print("no dead letters" + (" match" if where != DeadLetterFilter() else ""))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("error", no_wrap=True)
    table.add_column("letters", justify="right")
    table.add_column("died", no_wrap=True)
    table.add_column("where, and what to do", overflow="fold")
    for code, group in ordered:
        names = [f"{name or '(not a request)'} ({count})" for name, count in _most_first(group.repositories)]
        more = f", {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        why = explain(code)
        text = f"{', '.join(names[:_SHOWN])}{more}\n{why.cause} {why.next_step}"
        table.add_row(code, str(group.count), f"{ago(group.oldest)} to {ago(group.newest)} ago", text)
    out.print(table)


async def _by_code(letters: AsyncIterator[DeadLetter]) -> dict[str, _OfOneCode]:
    groups: dict[str, _OfOneCode] = {}
    async for letter in letters:
        code = letter.failure.code
        if code not in groups:
            groups[code] = _OfOneCode({}, letter.died_at, letter.died_at)
        groups[code].add(letter)
    return groups


def _most_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
