"""The vocabulary of every list, and of whatever acts on all that match: the same names and meanings in queries and in documents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.messages import Priority


class Asked(BaseModel):
    """All conditions must hold; an unknown one is refused rather than not looked at. Of a dead letter, times are those of death."""

    model_config = ConfigDict(extra="forbid")
    repository: str = Field(default="", max_length=300, description="glob over registry/repository or repository")
    tag: str = Field(default="", max_length=150, description="glob")
    driver: str = Field(default="", max_length=50)
    priority: Priority | Literal[""] = ""
    code: str = Field(default="", max_length=100, description="glob over the error code of the last failed attempt")
    q: str = Field(default="", max_length=300, description="part of a reference, id or digest; case does not matter")
    since: AwareDatetime | None = Field(default=None, description="requested at or after")
    until: AwareDatetime | None = Field(default=None, description="requested at or before")
    older_than_seconds: float | None = Field(default=None, ge=0, description="requested longer ago than this")
    newer_than_seconds: float | None = Field(default=None, ge=0, description="requested since")

    def conditions(self) -> dict[str, Any]:
        """For :class:`shared.request_filter.Conditions`."""
        now = datetime.now(UTC).timestamp()
        since = [each.timestamp() for each in (self.since,) if each]
        until = [each.timestamp() for each in (self.until,) if each]
        if self.newer_than_seconds is not None:
            since.append(now - self.newer_than_seconds)
        if self.older_than_seconds is not None:
            until.append(now - self.older_than_seconds)
        return {
            "repository": self.repository.strip(),
            "tag": self.tag.strip(),
            "driver": self.driver.strip(),
            "priority": self.priority,
            "code": self.code.strip(),
            "text": self.q.strip(),
            "since": max(since, default=None),
            "until": min(until, default=None),
        }
