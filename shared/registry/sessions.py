"""A record of the upload sessions that are open, for whoever comes after a process that is killed in the middle of one."""

from __future__ import annotations

from typing import Protocol

from shared.oci.reference import Reference


class UploadSessions(Protocol):
    """Never raises: an upload does not fail for its record."""

    async def record(self, upload: str, repository: Reference, location: str) -> None:
        """The session of ``upload`` is at ``location`` (path and query at the registry itself) from now on."""
        ...

    async def forget(self, upload: str) -> None:
        """It is committed or cancelled."""
        ...


class Unrecorded:
    """Keeps nothing."""

    async def record(self, upload: str, repository: Reference, location: str) -> None:
        """Nobody comes after us."""

    async def forget(self, upload: str) -> None:
        """Nothing is known."""
