"""Images that no retry converts until somebody mends them: what dead letters, their classes and their replay are for."""

from __future__ import annotations

from typing import Literal

Breakage = Literal["missing layer", "forbidden layer", "damaged layer", "cut layer"]
EXPECTED: dict[Breakage, str] = {
    "missing layer": "blob_unknown",
    "forbidden layer": "denied",
    "damaged layer": "corrupt_layer",
    "cut layer": "registry_unavailable",
}
"""What is wrong with an image → the code of its dead letter. The last one is transient: its attempts must run out first."""
DAMAGED_ON_THE_WAY = "corrupt_layer"
"""The only permanent class that a sound image may end under: its layer came with other bytes than its digest says."""

_EVERY = 25
_FIRST = 7


def breakage_of(number: int) -> Breakage | None:
    """Of the image that is made from ``number``; None for nearly all."""
    if number % _EVERY != _FIRST:
        return None
    kinds = tuple(EXPECTED)
    return kinds[number // _EVERY % len(kinds)]
