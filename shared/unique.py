"""Ids that nothing else has. They are no secrets: anybody may guess them, so that they need no call of the system's generator."""

from __future__ import annotations

from random import Random

_RANDOM = Random()  # noqa: S311  seeded by the system, and by nobody again


def unique_id() -> str:
    """32 hex digits."""
    return f"{_RANDOM.getrandbits(128):032x}"
