"""What the registry client tells whoever counts: one call per HTTP request, one per retry."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Every call is cheap and never fails; values are bounded (operation names are a fixed set, hosts come of the settings)."""

    def request(self, operation: str, registry: str, status: int, seconds: float) -> None:
        """One request ended; ``status`` 0 means that no answer came. ``seconds`` until the answer's head."""
        ...

    def retry(self, operation: str, registry: str, code: str, delay: float) -> None:
        """An attempt failed with ``code`` and is repeated after ``delay`` seconds."""
        ...

    def transferred(self, operation: str, registry: str, received: int, sent: int) -> None:
        """Bytes of blob content that moved."""
        ...


class Silent:
    """An observer that does not look."""

    def request(self, operation: str, registry: str, status: int, seconds: float) -> None:
        pass

    def retry(self, operation: str, registry: str, code: str, delay: float) -> None:
        pass

    def transferred(self, operation: str, registry: str, received: int, sent: int) -> None:
        pass
