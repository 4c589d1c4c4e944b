"""How a command ends: one clear line for a known error, and an exit code that a script can tell apart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from shared.errors import PermanentError, SkippedError, SupersededError, TransientError


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    PERMANENT = 1
    """Doing it again gives the same."""
    USAGE = 2
    TRANSIENT = 3
    """Doing it again later may succeed."""
    DIFFERENT = 4
    """A check found differences."""
    DECLINED = 5
    """A person was asked, and said no; nothing was done."""
    INTERRUPTED = 130


def tell(message: str, code: str) -> None:
    """A failure in plain text, for people."""
    print(f"ics: {message} [{code}]", file=sys.stderr)


@contextmanager
def told(write: Callable[[str, str], None] = tell) -> Iterator[None]:
    """Known errors become a line on standard error and an exit code; unknown ones stay what they are.

    Args:
        write: says a failure's message and code.
    """
    try:
        yield
    except TransientError as error:
        write(error.message, error.code)
        raise typer.Exit(Exit.TRANSIENT) from None
    except PermanentError as error:
        write(error.message, error.code)
        raise typer.Exit(Exit.PERMANENT) from None
    except SkippedError as error:
        print(f"nothing to do: {error.reason}", file=sys.stderr)
        raise typer.Exit(Exit.OK) from None
    except SupersededError as error:
        print(f"nothing to do: {error}", file=sys.stderr)
        raise typer.Exit(Exit.OK) from None
    except KeyboardInterrupt:
        print("ics: interrupted", file=sys.stderr)
        raise typer.Exit(Exit.INTERRUPTED) from None
