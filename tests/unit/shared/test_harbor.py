"""Harbor's API as the notes describe it, set up, walked and cleaned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from shared.catalogues import HarborCatalogue, open_catalogue
from shared.errors import PermanentError
from shared.harbor_api import HarborApi
from shared.harbor_setup import HarborSetup
from shared.outgoing_http import create_session
from shared.settings.model import HarborApi as HarborSettings
from shared.settings.model import Settings
from tests.servers.scripted import scripted_server


@dataclass
class Harbor:
    """One project ``library``, one proxy cache; robots and policies in memory."""

    robots: list[dict[str, Any]] = field(default_factory=list)
    policies: list[dict[str, Any]] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"].startswith("Basic ")
        path = request.raw_path.partition("?")[0].removeprefix("/api/v2.0")
        if request.method != "GET":
            self.writes.append(f"{request.method} {path}")
        document, status = await self._answer(request, path)
        return web.json_response(document, status=status)

    async def _answer(self, request: web.Request, path: str) -> tuple[Any, int]:
        body = orjson.loads(await request.read() or b"{}")
        page = int(request.query.get("page", "1"))
        match request.method, path.split("/")[1:]:
            case "GET", ["projects"]:
                return (
                    [{"name": "library", "project_id": 1}, {"name": "proxy", "registry_id": 3}] if page == 1 else []
                ), 200
            case "GET", ["projects", "library"]:
                return {"name": "library", "project_id": 1}, 200
            case "GET", ["projects", "proxy"]:
                return {"name": "proxy", "project_id": 2, "registry_id": 3}, 200
            case "GET", ["projects", _]:
                return {"errors": []}, 404
            case "GET", ["projects", "library", "repositories"]:
                names = [f"library/app-{number}" for number in range(150)][(page - 1) * 100 : page * 100]
                return [{"name": name} for name in names], 200
            case "GET", ["projects", "library", "repositories", encoded, "artifacts"]:
                name = unquote(unquote(encoded))
                return [
                    {"digest": f"sha256:{'1' * 64}", "tags": [{"name": f"{name}-v1"}]},
                    {"digest": "x", "tags": None},
                ], 200
            case "GET", ["robots"]:
                return self.robots, 200
            case "POST", ["robots"]:
                self.robots.append(
                    {"id": 7, "name": f"robot${body['permissions'][0]['namespace']}+{body['name']}", "asked": body}
                )
                return {"name": self.robots[-1]["name"], "secret": "robot-secret"}, 201
            case "DELETE", ["robots", "7"]:
                self.robots.clear()
                return {}, 200
            case "GET", ["projects", "library", "webhook", "policies"]:
                return self.policies, 200
            case "POST", ["projects", "library", "webhook", "policies"]:
                self.policies.append({**body, "id": 9})
                return {}, 201
            case "PUT", ["projects", "library", "webhook", "policies", "9"]:
                self.policies[:] = [body]
                return {}, 200
            case "DELETE", ["projects", "library", "webhook", "policies", "9"]:
                self.policies.clear()
                return {}, 200
        return {"errors": [{"code": "NOT_FOUND"}]}, 404


@asynccontextmanager
async def harbor() -> AsyncIterator[tuple[Harbor, HarborApi, HarborSettings]]:
    state = Harbor()
    async with scripted_server(state.handle) as host, create_session() as session:
        settings = HarborSettings(url=f"http://{host}", username="admin", password=SecretStr("secret"))
        yield state, HarborApi(settings, session), settings


async def test_setup_makes_a_robot_with_least_rights_and_a_policy() -> None:
    async with harbor() as (state, api, _):
        setup = HarborSetup(api, "library", robot="ics", policy="ics")
        outcome = await setup.apply("https://ics.example.com/conversion", "Bearer x", "CloudEvents")
        assert (outcome.robot_name, outcome.robot_secret) == ("robot$library+ics", "robot-secret")
        access = state.robots[0]["asked"]["permissions"][0]["access"]
        assert {(each["resource"], each["action"]) for each in access} == {
            ("repository", "pull"),
            ("repository", "push"),
        }
        (policy,) = state.policies
        assert policy["event_types"] == ["PUSH_ARTIFACT"]
        assert policy["targets"][0]["auth_header"] == "Bearer x"
        assert policy["targets"][0]["payload_format"] == "CloudEvents"


async def test_setup_again_updates_the_policy_and_leaves_the_robot() -> None:
    async with harbor() as (state, api, _):
        setup = HarborSetup(api, "library", robot="ics", policy="ics")
        await setup.apply("https://old.example.com/", "Bearer x", "CloudEvents")
        outcome = await setup.apply("https://new.example.com/", "Bearer y", "Default")
        assert outcome.robot_secret == ""
        assert len(state.robots) == len(state.policies) == 1
        assert state.policies[0]["targets"][0]["address"] == "https://new.example.com/"


async def test_a_dry_run_writes_nothing_and_removing_takes_everything_away() -> None:
    async with harbor() as (state, api, _):
        dry = HarborSetup(api, "library", robot="ics", policy="ics", dry_run=True)
        assert len((await dry.apply("https://ics.example.com/", "Bearer x", "CloudEvents")).done) == 2
        assert state.writes == []
        wet = HarborSetup(api, "library", robot="ics", policy="ics")
        await wet.apply("https://ics.example.com/", "Bearer x", "CloudEvents")
        assert len((await wet.remove()).done) == 2
        assert state.robots == state.policies == []
        assert (await wet.remove()).done == ("nothing was there",)


@pytest.mark.parametrize("project", ["nowhere", "proxy"])
async def test_a_project_that_cannot_be_set_up_says_why(project: str) -> None:
    async with harbor() as (state, api, _):
        with pytest.raises(PermanentError, match=project):
            await HarborSetup(api, project, robot="ics", policy="ics").apply("https://x/", "y", "Default")
        assert state.writes == []


async def test_the_catalogue_walks_pages_and_leaves_proxy_caches_out() -> None:
    async with harbor() as (_, api, _settings):
        for catalogue in (HarborCatalogue(api), HarborCatalogue(api, "library")):
            names = [name async for name in catalogue.repositories()]
            assert names == [f"library/app-{number}" for number in range(150)]
        tags = [each async for each in HarborCatalogue(api).tags("library/app-1")]
        assert tags == [("app-1-v1", f"sha256:{'1' * 64}")]
        assert [name async for name in HarborCatalogue(api, "proxy").repositories()] == []


async def test_a_project_needs_a_harbor() -> None:
    with pytest.raises(PermanentError, match="configure harbor"):
        async with open_catalogue(Settings(), "harbor.example.com", "library"):
            pass


async def test_a_configured_harbor_is_walked_by_its_own_api() -> None:
    settings = Settings(harbor={"harbor.example.com": HarborSettings(url="https://harbor.example.com")})
    async with open_catalogue(settings, "harbor.example.com") as found:
        assert isinstance(found, HarborCatalogue)
