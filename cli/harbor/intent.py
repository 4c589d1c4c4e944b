"""What a Harbor project is to have for ICS, and what a setup has come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PayloadFormat = Literal["CloudEvents", "Default"]
Rights = frozenset[tuple[str, str]]
"""(resource, action) pairs in Harbor's words."""
CONVERT: Rights = frozenset({("repository", "pull"), ("repository", "push")})
LABEL: Rights = frozenset({("project", "read"), ("label", "list"), ("artifact-label", "create")})
"""To find a label of the project and put it on an artifact; the label itself is made by the setup."""
LIST: Rights = frozenset({("project", "read"), ("repository", "list"), ("artifact", "list")})
"""To walk the project for a backfill."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a project is to have.

    Args:
        project: its name.
        robot: name of the robot account, without Harbor's prefix.
        policy: name of the webhook policy.
        label: a label that conversions put on source artifacts; empty for none. Made if it is missing.
        backfill: whether the robot may walk the project over Harbor's API.
    """

    project: str
    robot: str = "ics"
    policy: str = "ics"
    label: str = ""
    backfill: bool = False

    @property
    def rights(self) -> Rights:
        return CONVERT | (LABEL if self.label else frozenset()) | (LIST if self.backfill else frozenset())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and the secrets that belong to it."""

    done: tuple[str, ...]
    """For people: each line one thing."""
    robot_name: str = ""
    """As Harbor calls it, prefix and all."""
    robot_secret: str = field(default="", repr=False)
    """Told when the robot is made or gets a new one; empty where it was there already."""
    authorization: str = field(default="", repr=False)
    """What Harbor sends as ``Authorization``."""
