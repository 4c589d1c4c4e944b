"""How damaged Nydus structures are reported: always with the field that is wrong."""

from __future__ import annotations

from shared.errors import PermanentError


class InvalidNydusError(PermanentError):
    """A bootstrap, blob table of contents or chunk array breaks the format's rules (code ``invalid_nydus``).

    Args:
        field: the structure and field in the format's own terms, such as ``superblock.magic``.
        message: what is wrong with it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", code="invalid_nydus", field=field)
        self.field = field
        self.reason = message


def require(condition: bool, field: str, message: str) -> None:
    """Raise :class:`InvalidNydusError` unless ``condition``."""
    if not condition:
        raise InvalidNydusError(field, message)
