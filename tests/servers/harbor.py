"""Harbor's REST API as its source has it, for what conversions use: it cannot run here. Pages, passwords and refusals included."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web

from shared.oci.converted import ANNOTATION_DRIVER_NAME
from tests.servers.scripted import scripted_server

USER, PASSWORD = "admin", "Harbor12345"
_BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass
class Harbor:
    """One project ``library``, one proxy cache; robots, policies and labels in memory."""

    host: str = ""
    robots: list[dict[str, Any]] = field(default_factory=list)
    policies: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    labelled: list[tuple[str, str, int]] = field(default_factory=list)
    """Repository, reference, label id."""
    writes: list[str] = field(default_factory=list)
    """``METHOD /path`` of everything that is no GET."""
    failures: dict[str, int] = field(default_factory=dict)
    """``METHOD /path`` to the status that it is answered with, without having done anything; 0 cuts the connection."""
    lost: set[str] = field(default_factory=set)
    """``METHOD /path`` that is done and never answered: the connection is cut."""
    secretless: bool = False
    """Robots are made and their secret is not told."""

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0].partition("/api/v2.0")[2]  # a proxy asks with the whole URL
        what = f"{request.method} {path}"
        if request.headers.get("Authorization") != _BASIC:
            return _refusal(401, "unauthorized")
        if request.method != "GET":
            self.writes.append(what)
        if what in self.failures:
            return _refusal(self.failures[what], "as the test wants it") if self.failures[what] else _cut(request)
        body = orjson.loads(await request.read() or b"{}")
        document, status = self._write(what, body) if request.method != "GET" else self._read(request, path)
        if what in self.lost:
            return _cut(request)
        if isinstance(document, list):
            page, size = int(request.query.get("page", "1")), int(request.query.get("page_size", "10"))
            document = document[(page - 1) * size : page * size] if size <= 100 else []
        return web.json_response(document, status=status)

    def _read(self, request: web.Request, path: str) -> tuple[Any, int]:
        match path.split("/")[1:]:
            case ["projects"]:
                return [{"name": "library", "project_id": 1}, {"name": "proxy", "registry_id": 3}], 200
            case ["projects", "library"]:
                return {"name": "library", "project_id": 1}, 200
            case ["projects", "proxy"]:
                return {"name": "proxy", "project_id": 2, "registry_id": 3}, 200
            case ["projects", "library", "repositories"]:
                # A page of real ones comes in many pieces.
                return [{"name": f"library/app-{number}", "description": "x" * 3000} for number in range(150)], 200
            case ["projects", "library", "repositories", encoded, "artifacts"]:
                tagged = {"digest": f"sha256:{'1' * 64}", "tags": [{"name": f"{unquote(unquote(encoded))}-v1"}]}
                marks = {ANNOTATION_DRIVER_NAME: "estargz"}
                made = {"digest": f"sha256:{'2' * 64}", "tags": [{"name": "v1_esgz"}], "annotations": marks}
                return [tagged, made, {"digest": "x", "tags": None}], 200
            case ["robots"]:
                assert request.query["q"] == "Level=project,ProjectID=1"
                return self.robots, 200
            case ["projects", "library", "webhook", "policies"]:
                return self.policies, 200
            case ["labels"]:
                wanted = request.query.get("name", "")
                return [each for each in self.labels if wanted in each["name"]], 200
        return {"errors": [{"code": "NOT_FOUND", "message": "not found"}]}, 404

    def _write(self, what: str, body: Any) -> tuple[Any, int]:
        method, _, path = what.partition(" ")
        match method, *path.split("/")[1:]:
            case "POST", "robots":
                robot = {**body, "id": 700 + len(self.robots), "name": f"robot$library+{body['name']}"}
                self.robots.append(robot)
                secret = {} if self.secretless else {"secret": "Robot5ecret"}
                return {"id": robot["id"], "name": robot["name"], **secret}, 201
            case "PUT", "robots", number:
                self.robots[self._robot(number)] = body
                return {}, 200
            case "PATCH", "robots", number:
                self._robot(number)
                return {"secret": "N3wsecret"}, 200
            case "DELETE", "robots", number:
                del self.robots[self._robot(number)]
                return {}, 200
            case "POST", "projects", "library", "webhook", "policies":
                self.policies.append({**body, "id": 9, "creator": USER})
                return {}, 201
            case "PUT", "projects", "library", "webhook", "policies", "9":
                self.policies[:] = [*(each for each in self.policies if each["id"] != 9), body]
                return {}, 200
            case "DELETE", "projects", "library", "webhook", "policies", "9":
                self.policies[:] = [each for each in self.policies if each["id"] != 9]
                return {}, 200
            case "POST", "labels":
                self.labels.append({**body, "id": 50 + len(self.labels)})
                return {}, 201
            case "POST", "projects", "library", "repositories", repository, "artifacts", reference, "labels":
                self.labelled.append((unquote(unquote(repository)), unquote(reference), body["id"]))
                return {}, 200
        return {"errors": [{"code": "NOT_FOUND", "message": "not found"}]}, 404

    def _robot(self, number: str) -> int:
        return next(place for place, each in enumerate(self.robots) if each["id"] == int(number))


@asynccontextmanager
async def running_harbor(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[Harbor]:
    state = Harbor()
    async with scripted_server(state.handle, tls=tls) as host:
        state.host = host
        yield state


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": "X", "message": message}]}, status=status)


def _cut(request: web.Request) -> web.Response:
    assert isinstance(request.transport, asyncio.Transport)
    request.transport.abort()
    return web.Response()
