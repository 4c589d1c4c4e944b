"""Which conversions: the conditions that a message itself can be asked, the same in lists, over dead letters, and in cancellations
at every consumer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


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
    def code(self) -> str:
        """Of its last failed attempt; empty without one."""
        ...

    @property
    def created(self) -> float:
        """The time that ``since`` and ``until`` ask for; UNIX seconds."""
        ...

    @property
    def words(self) -> Iterable[str]:
        """What text is looked for in, in lower case."""
        ...


class Conditions(BaseModel):
    """All must hold; empty ones match everything. Times are UNIX seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    repository: str = Field(default="", max_length=300)
    """Glob over ``registry/repository`` or ``repository``."""
    tag: str = Field(default="", max_length=150)
    """Glob."""
    driver: str = Field(default="", max_length=50)
    priority: str = Field(default="", max_length=50)
    code: str = Field(default="", max_length=100)
    """Glob over the error code of the last failed attempt."""
    text: str = Field(default="", max_length=300)
    """Part of an id, a reference or a digest; case does not matter."""
    since: float | None = None
    """Requested (a dead letter: died) at or after."""
    until: float | None = None
    """At or before."""


class RequestFilter(Conditions):
    """With the status.

    It travels in events. A reader that does not know one of its conditions must not act on the others: unknown keys are refused,
    and those that are not asked are not written.
    """

    statuses: frozenset[str] = Field(default=frozenset(), max_length=20)
    """Not looked at by :func:`matcher`: who asks knows better what they mean to it."""

    @model_serializer(mode="wrap")
    def _asked_alone(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        asked: dict[str, Any] = serialize(self)
        if statuses := asked.pop("statuses", None):
            asked["statuses"] = sorted(statuses)
        return {name: value for name, value in asked.items() if value not in ("", None)}


def matcher(where: Conditions) -> Callable[[Described], bool]:
    """Whether everything but the status fits."""
    repository, tag, code = _glob(where.repository), _glob(where.tag), _glob(where.code)
    text = where.text.strip().lower()

    def matches(c: Described) -> bool:
        return (
            (where.since is None or c.created >= where.since)
            and (where.until is None or c.created <= where.until)
            and (not where.driver or c.driver == where.driver)
            and (not where.priority or c.priority == where.priority)
            and (code is None or code(c.code))
            and (tag is None or tag(c.tag))
            and (repository is None or repository(c.ref) or repository(c.ref.partition("/")[2]))
            and (not text or any(text in word for word in c.words))
        )

    return matches


def _glob(pattern: str) -> Callable[[str], bool] | None:
    if not pattern:
        return None
    if not re.search(r"[*?\[]", pattern):
        return pattern.__eq__
    expression = re.compile(translate(pattern))
    return lambda value: expression.match(value) is not None
