"""What every dialect comes down to, and how a body that fits none is told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from shared.errors import PermanentError
from shared.planning import PushEvent


class Notice(NamedTuple):
    """One webhook body."""

    sender: str
    kind: str
    pushes: tuple[PushEvent, ...] = ()
    ignored: str = ""
    """Why there are no pushes."""
    request_id: str = ""


class MalformedWebhookError(PermanentError):
    """A body that is no webhook of any dialect (code ``malformed_webhook``); ``path`` is where it went wrong."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message, code="malformed_webhook", path=path)
        self.path = path


def mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedWebhookError(path, "must be an object")
    return value


def items(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedWebhookError(path, "must be a list")
    return value


def text(value: Any, path: str, *, limit: int = 1024) -> str:
    """A string of printable characters; absent is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedWebhookError(path, "must be a string")
    if len(value) > limit or not value.isprintable():
        raise MalformedWebhookError(path, f"must be at most {limit} printable characters")
    return value


def instant(value: Any) -> datetime | None:
    """Unix seconds or RFC 3339; None for what is neither, since no conversion depends on it."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
