"""What the next consumer makes of the upload sessions that it inherits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from consumer.upload_journal import UploadJournal
from shared.oci.reference import Reference
from tests.waiting import PATIENCE


@pytest.mark.parametrize("registry", ["harbor.example.com", "harbor", "harbor:8080"])
async def test_a_session_is_cancelled_at_the_registry_where_it_was_opened(tmp_path: Path, registry: str) -> None:
    """Also at one whose name has no dot, as in a cluster."""
    repository = Reference(registry, "library/app")
    await UploadJournal(tmp_path).record("upload", repository, "/v2/library/app/blobs/uploads/1")
    found: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()

    async def cancel(where: Reference, location: str) -> None:
        await found.put((where.registry, where.repository, location))

    async with UploadJournal(tmp_path).cancelling(cancel), asyncio.timeout(PATIENCE):
        assert await found.get() == (registry, "library/app", "/v2/library/app/blobs/uploads/1")
