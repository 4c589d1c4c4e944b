"""Upload sessions that a killed consumer left open at a registry, cancelled by the next one.

A small file for each open session, in the work folder that the next consumer inherits: the repository, and where the session is.
No credential: those are asked for again, and the location must be at a registry that the settings allow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from shared.background import beside
from shared.errors import IcsError, TransientError
from shared.oci.reference import Reference, parse_written

Cancel = Callable[[Reference, str], Awaitable[None]]
"""Ends the session of a repository at a location; raises a classified error."""
_log = logging.getLogger(__name__)


class UploadJournal:
    """:class:`shared.registry.sessions.UploadSessions` in a folder of one process.

    Args:
        folder: exists; what it holds at first was inherited.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def record(self, upload: str, repository: Reference, location: str) -> None:
        text = f"{repository.registry}/{repository.repository}\n{location}\n"
        with contextlib.suppress(OSError):  # a full disk leaves the session to the registry's own purging
            await asyncio.to_thread((self._folder / upload).write_text, text)

    async def forget(self, upload: str) -> None:
        with contextlib.suppress(OSError):
            await asyncio.to_thread((self._folder / upload).unlink, missing_ok=True)

    @asynccontextmanager
    async def cancelling(self, cancel: Cancel) -> AsyncIterator[None]:
        """Cancel what was inherited, beside whatever runs inside."""
        async with beside(self._cancel_all(await self._inherited(), cancel), "cancelling abandoned uploads"):
            yield

    async def _inherited(self) -> list[Path]:
        return await asyncio.to_thread(lambda: list(self._folder.iterdir()))

    async def _cancel_all(self, records: list[Path], cancel: Cancel) -> None:
        cancelled = 0
        for record in records:
            try:
                name, location = (await asyncio.to_thread(record.read_text)).splitlines()
                await cancel(parse_written(name), location)
                cancelled += 1
            except TransientError as error:
                _log.info("an abandoned upload session is left for the next start: %s", error.code)
                continue
            except (IcsError, ValueError, OSError) as error:  # gone, not allowed any more, or a record cut short
                _log.info("an abandoned upload session cannot be cancelled: %s", type(error).__name__)
            await self.forget(record.name)
        if cancelled:
            _log.info("cancelled %d upload sessions of consumers that are gone", cancelled)
