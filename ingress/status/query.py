"""Searching the history: filters as they stand in the page's address, pages that mean the same on every replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ingress.status.conversion import Conversion
from ingress.status.history import History
from shared.request_filter import RequestFilter, matcher

_BREATH = 2000
"""Conversions looked at between two chances for other requests."""


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Conversion]
    cursor: str
    """Where the next page begins; empty on the last."""


async def search(history: History, where: RequestFilter, *, limit: int, cursor: str = "") -> Page:
    """The newest ``limit`` matches older than ``cursor`` (``ValueError`` if it is not one)."""
    before = _parse_cursor(cursor) if cursor else None
    matches = _matcher(where)
    found: list[Conversion] = []
    for seen, conversion in enumerate(history.newest_first(), 1):
        if seen % _BREATH == 0:
            await asyncio.sleep(0)
        if before is not None and (conversion.created, conversion.id) >= before:
            continue
        if not matches(conversion):
            continue
        if len(found) == limit:
            last = found[-1]
            return Page(found, f"{last.created!r}~{last.id}")
        found.append(conversion)
    return Page(found, "")


def _parse_cursor(text: str) -> tuple[float, str]:
    created, separator, conversion_id = text.partition("~")
    if not separator:
        raise ValueError("not a cursor")
    return float(created), conversion_id


def _matcher(where: RequestFilter) -> Callable[[Conversion], bool]:
    of_the_request = matcher(where.model_copy(update={"text": ""}))
    text = where.text.strip().lower()

    def matches(c: Conversion) -> bool:
        return (
            (not where.statuses or c.status in where.statuses)
            and of_the_request(c)
            and (not text or any(text in word for word in (*c.words, *_known_here(c))))
        )

    return matches


def _known_here(c: Conversion) -> tuple[str, ...]:
    """What the history alone can tell."""
    return c.target_digest, c.trace_id, c.dead_letter_id.lower()
