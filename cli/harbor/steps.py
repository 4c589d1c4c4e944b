"""Errors of a setup that say which step it was, and what stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import IcsError, PermanentError, TransientError


@contextmanager
def step(failed: str) -> Iterator[None]:
    """Errors say which step it was and what stands."""
    try:
        yield
    except IcsError as error:
        raise reworded(error, f"{failed}: {error.message}") from error


def reworded(error: IcsError, message: str) -> IcsError:
    """The same error in other words."""
    if isinstance(error, TransientError):
        return TransientError(message, code=error.code, retry_after=error.retry_after, **error.details)
    return PermanentError(message, code=error.code, **error.details)
