"""Every error that the service raises on purpose, classified once, where it is raised.

::

    IcsError
    ├── TransientError      worth a retry: the same request may succeed later
    └── PermanentError      never worth a retry: goes to the dead-letter queue at once

``code`` is stable: it is the dead letter's grouping key, the metric's label and the span's attribute. ``message`` is for
people: it says what happened and what to do, and never holds a credential. Layers above never guess a class from a text.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["transient", "permanent"]


class IcsError(Exception):
    """Base of all; raise one of the two subclasses.

    Args:
        message: what happened and, where known, what to do about it.
        code: stable identifier in ``snake_case``.
        details: short facts for people and logs (registry, repository, operation, status, limit ...), no secrets.
    """

    kind: Kind

    def __init__(self, message: str, *, code: str, **details: str | float | None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = {key: value for key, value in details.items() if value is not None}


class TransientError(IcsError):
    """The same request may succeed later; ``retry_after`` (seconds) where the other side named a time."""

    kind: Kind = "transient"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retry_after: float | None = None,
        **details: str | float | None,
    ) -> None:
        super().__init__(message, code=code, **details)
        self.retry_after = retry_after


class PermanentError(IcsError):
    """No retry of the same request can succeed."""

    kind: Kind = "permanent"


class CorruptLayerError(PermanentError):
    """A layer's bytes are not what its descriptor or its format says (code ``corrupt_layer``)."""

    def __init__(self, message: str, **details: str | float | None) -> None:
        super().__init__(message, code="corrupt_layer", **details)


class LimitExceededError(PermanentError):
    """The input is larger than a configured limit; the message names the limit (code ``limit_exceeded``)."""

    def __init__(self, message: str, *, limit: str, **details: str | float | None) -> None:
        super().__init__(message, code="limit_exceeded", limit=limit, **details)


class UnsupportedError(PermanentError):
    """Well-formed, but nothing that the chosen format can hold (code ``unsupported``)."""

    def __init__(self, message: str, **details: str | float | None) -> None:
        super().__init__(message, code="unsupported", **details)


class SupersededError(Exception):
    """Not a failure: the source tag has moved on, so this conversion's result is not wanted any more."""


class SkippedError(Exception):
    """Not a failure: there is nothing to convert; ``reason`` is a short stable phrase for people and the metric."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a group of parallel tasks; those that it cancelled raised none."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
