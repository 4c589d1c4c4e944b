"""What exists in a Harbor, by its own API."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.backfill.catalogues import HarborCatalogue, open_catalogue
from shared.errors import PermanentError
from shared.outgoing.harbor_api import HarborApi
from shared.outgoing.http import create_session
from shared.settings.model import HarborSettings, Settings
from tests.servers.harbor import PASSWORD, USER, running_harbor


async def test_the_catalogue_walks_pages_and_leaves_proxy_caches_out() -> None:
    async with running_harbor() as state, create_session() as session:
        api = HarborApi(HarborSettings(url=state.url, username=USER, password=SecretStr(PASSWORD)), session)
        for catalogue in (HarborCatalogue(api), HarborCatalogue(api, "library")):
            names = [name async for name in catalogue.repositories()]
            assert names == [f"library/app-{number}" for number in range(150)]
        for asked in (True, False):
            tags = [each async for each in HarborCatalogue(api).tags("library/app-1", lambda _: asked)]  # noqa: B023
            assert tags == [("app-1-v1", f"sha256:{'1' * 64}", False), ("v1_esgz", f"sha256:{'2' * 64}", asked)]
        assert [name async for name in HarborCatalogue(api, "proxy").repositories()] == []


async def test_a_project_needs_a_harbor() -> None:
    with pytest.raises(PermanentError, match="configure harbor"):
        async with open_catalogue(Settings(), "harbor.example.com", "library"):
            pass


@pytest.mark.parametrize("host", ["harbor.example.com", "Harbor.Example.com"])
async def test_a_configured_harbor_is_walked_by_its_own_api(host: str) -> None:
    settings = Settings(harbor={host: HarborSettings(url="https://harbor.example.com")})
    async with open_catalogue(settings, "harbor.example.com") as found:
        assert isinstance(found, HarborCatalogue)


async def test_a_missing_password_file_says_so(tmp_path: Path) -> None:
    async with create_session() as session:
        for settings in (
            HarborSettings(url="https://h", username="u", password_file=tmp_path / "none"),
            HarborSettings(url="https://h", ca=tmp_path / "none"),
        ):
            with pytest.raises(PermanentError, match="none cannot be") as caught:
                HarborApi(settings, session)
            assert caught.value.code == "invalid_configuration"
