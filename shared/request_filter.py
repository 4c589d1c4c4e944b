"""Which requests: the conditions that a message itself can be asked, the same in lists and in cancellations at every consumer."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, field_serializer


class Described(Protocol):
    """A conversion as :func:`matcher` looks at it."""

    @property
    def ref(self) -> str:
        """``registry/repository`` of the source."""
        ...

    @property
    def tag(self) -> str: ...
    @property
    def driver(self) -> str: ...
    @property
    def priority(self) -> str: ...
    @property
    def created(self) -> float:
        """When it was requested; UNIX seconds."""
        ...


class RequestFilter(BaseModel):
    """All conditions must hold; empty ones match everything. Times are UNIX seconds.

    It travels in events. A reader that does not know one of its conditions must not act on the others: unknown keys are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    statuses: frozenset[str] = Field(default=frozenset(), max_length=20)
    """Not looked at by :func:`matcher`: who asks knows better what they mean to it."""
    repository: str = Field(default="", max_length=300)
    """Glob over ``registry/repository`` or ``repository``."""
    tag: str = Field(default="", max_length=150)
    """Glob."""
    driver: str = Field(default="", max_length=50)
    priority: str = Field(default="", max_length=50)
    since: float | None = None
    """Requested at or after."""
    until: float | None = None
    """Requested at or before."""

    @field_serializer("statuses")
    def _in_one_order(self, statuses: frozenset[str]) -> list[str]:
        return sorted(statuses)


def matcher(where: RequestFilter) -> Callable[[Described], bool]:
    """Whether everything but the status fits."""
    repository = _glob(where.repository)
    tag = _glob(where.tag)

    def matches(c: Described) -> bool:
        return (
            (where.since is None or c.created >= where.since)
            and (where.until is None or c.created <= where.until)
            and (not where.driver or c.driver == where.driver)
            and (not where.priority or c.priority == where.priority)
            and (tag is None or tag(c.tag))
            and (repository is None or repository(c.ref) or repository(c.ref.partition("/")[2]))
        )

    return matches


def _glob(pattern: str) -> Callable[[str], bool] | None:
    if not pattern:
        return None
    if not re.search(r"[*?\[]", pattern):
        return pattern.__eq__
    expression = re.compile(translate(pattern))
    return lambda value: expression.match(value) is not None
