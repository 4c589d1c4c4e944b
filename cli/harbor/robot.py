"""The robot account of a Harbor project: found, brought up to date, made, and taken away again where nobody has its secret."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from cli.harbor.intent import Intent, Rights
from cli.harbor.steps import reworded, step
from shared.errors import IcsError, PermanentError
from shared.outgoing.harbor_api import HarborApi

_NOT_FOUND = frozenset({404})
UNDO_TIMEOUT = 20.0
"""Seconds to take a robot away again."""


class HarborRobot:
    """Args:
    dry_run: only say what would be done.
    """

    def __init__(self, api: HarborApi, intent: Intent, *, dry_run: bool = False) -> None:
        self._api = api
        self._intent = intent
        self._dry_run = dry_run

    async def find(self, project_id: object) -> dict[str, Any] | None:
        query = quote(f"Level=project,ProjectID={project_id}", safe="")
        ending = f"{self._intent.project}+{self._intent.robot}"  # behind Harbor's configurable prefix
        async for each in self._api.pages(f"/robots?q={query}"):
            if str(each.get("name", "")).endswith(ending):
                return each
        return None

    async def update(self, robot: dict[str, Any], *, new_secret: bool) -> tuple[list[str], str]:
        name, path = str(robot["name"]), f"/robots/{int(robot['id'])}"
        lines: list[str] = []
        stands = f"the webhook policy {self._intent.policy} is up to date; run again"
        if _rights_of(robot, self._intent.project) != self._intent.rights or robot.get("disable"):
            lines.append(f"robot account {name}: updated, may {told_rights(self._intent.rights)}")
            if not self._dry_run:
                document = self._document() | {"name": name, "duration": robot.get("duration", -1)}
                with step(f"robot account {name} could not be updated; {stands}"):
                    await self._api.request("PUT", path, {**document, "id": int(robot["id"]), "disable": False})
        if not new_secret:
            return [*lines, f"robot account {name}: there already, its secret is not shown again"], ""
        lines.append(f"robot account {name}: has a new secret, the old one is void")
        if self._dry_run:
            return lines, ""
        with step(f"robot account {name} got no new secret; {stands}"):
            _, answer = await self._api.request("PATCH", path, {"secret": ""})
        secret = str(answer.get("secret") or "") if isinstance(answer, dict) else ""
        if not secret:
            raise PermanentError(f"Harbor told no new secret for robot account {name}", code="peer_refused")
        return lines, secret

    async def create(self, project_id: object) -> tuple[int, str, str]:
        """Id, name, secret. An answer that is lost or makes no sense leaves no robot behind."""
        robot, stands = self._intent.robot, f"the webhook policy {self._intent.policy} stands; run again, or --remove"
        try:
            _, made = await self._api.request("POST", "/robots", self._document())
            if isinstance(made, dict) and made.get("name") and made.get("secret"):
                return int(made["id"]), str(made["name"]), str(made["secret"])
        except PermanentError as error:  # refused: none was made, and one that is in the way is not ours
            raise reworded(error, f"robot account {robot} could not be made: {error.message}; {stands}") from error
        except BaseException as error:
            left = await self._undo_unseen(project_id)
            if isinstance(error, IcsError):
                raise reworded(
                    error, f"robot account {robot} could not be made: {error.message}; {left}; {stands}"
                ) from error
            raise
        left = await self._undo_unseen(project_id)
        raise PermanentError(f"Harbor told no secret for robot account {robot}; {left}; {stands}", code="peer_refused")

    async def _undo_unseen(self, project_id: object) -> str:
        """After a creation without a sensible answer: look whether it happened."""
        try:
            async with asyncio.timeout(UNDO_TIMEOUT):
                robot = await self.find(project_id)
        except (IcsError, TimeoutError):
            return "whether Harbor made it is not known, and a robot account without a known secret may be left"
        return "it was not made" if robot is None else await self.undo(int(robot["id"]), str(robot["name"]))

    async def undo(self, robot_id: int, name: str) -> str:
        """Take a robot away whose secret nobody has; what became of it, in words."""
        try:
            async with asyncio.timeout(UNDO_TIMEOUT):
                await self._api.request("DELETE", f"/robots/{robot_id}", expected=_NOT_FOUND)
        except (IcsError, TimeoutError):
            return f"robot account {name} is left without a known secret: run again with --new-robot-secret"
        return f"robot account {name} was removed again"

    def _document(self) -> dict[str, Any]:
        access = [{"resource": resource, "action": action} for resource, action in sorted(self._intent.rights)]
        return {
            "name": self._intent.robot,
            "description": "image conversion service",
            "level": "project",
            "duration": -1,
            "permissions": [{"kind": "project", "namespace": self._intent.project, "access": access}],
        }


def _rights_of(robot: dict[str, Any], project: str) -> Rights | None:
    """None where they reach beyond the project or cannot be told."""
    permissions = robot.get("permissions")
    if not isinstance(permissions, list) or len(permissions) != 1 or permissions[0].get("namespace") != project:
        return None
    access = permissions[0].get("access") or []
    return frozenset((str(each.get("resource")), str(each.get("action"))) for each in access)


def told_rights(rights: Rights) -> str:
    return ", ".join(f"{action} {resource}" for resource, action in sorted(rights))
