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


class ConversionFilter(RequestFilter):
    """With what the history alone can tell."""

    code: str = ""
    text: str = ""
    """Part of an id, reference, digest, trace id or dead letter id; case does not matter."""


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Conversion]
    cursor: str
    """Where the next page begins; empty on the last."""


async def search(history: History, where: ConversionFilter, *, limit: int, cursor: str = "") -> Page:
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


def _matcher(where: ConversionFilter) -> Callable[[Conversion], bool]:
    of_the_request = matcher(where)
    text = where.text.strip().lower()

    def matches(c: Conversion) -> bool:
        return (
            (not where.statuses or c.status in where.statuses)
            and (not where.code or c.code == where.code)
            and of_the_request(c)
            and (not text or _contains(c, text))
        )

    return matches


def _contains(c: Conversion, text: str) -> bool:
    return (
        text in f"{c.ref}:{c.tag}".lower()
        or text in c.id
        or text in c.target.lower()
        or text in c.source_digest
        or text in c.target_digest
        or (c.trace_id != "" and text in c.trace_id)
        or (c.dead_letter_id != "" and text in c.dead_letter_id.lower())
    )
