"""Pointing a Harbor project at ICS over Harbor's API: a robot account with least rights, and the webhook policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from shared.errors import PermanentError
from shared.harbor_api import HarborApi

PayloadFormat = Literal["CloudEvents", "Default"]
_NOT_FOUND = frozenset({404})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, for people: each line one thing."""

    done: tuple[str, ...]
    robot_name: str = ""
    """As Harbor calls it, prefix and all."""
    robot_secret: str = ""
    """Told once, when the robot is made; empty where it was there already."""


class HarborSetup:
    """One project of one Harbor. Everything may be repeated: what is there already is brought up to date.

    Args:
        dry_run: only say what would be done.
    """

    def __init__(self, api: HarborApi, project: str, *, robot: str, policy: str, dry_run: bool = False) -> None:
        self._api = api
        self._project = project
        self._robot = robot
        self._policy = policy
        self._dry_run = dry_run

    async def apply(self, address: str, authorization: str, payload: PayloadFormat) -> Outcome:
        """Make robot and webhook policy.

        Args:
            address: URL of the ingress' webhook endpoint, as Harbor reaches it.
            authorization: exact value that Harbor sends as ``Authorization``.
            payload: the dialect; CloudEvents carries ids that make repeated deliveries one.

        Raises:
            PermanentError: ``peer_refused`` (no such project, no rights), TransientError: ``peer_unavailable``.
        """
        project = await self._find_project()
        done: list[str] = []
        known = await self._find_robot(project["project_id"])
        name, secret = (str(known["name"]), "") if known else (self._robot, "")
        if known is None:
            done.append(f"robot account {self._robot}: created, may pull and push in {self._project}")
            if not self._dry_run:
                _, made = await self._api.request("POST", "/robots", self._robot_document())
                name, secret = str(made["name"]), str(made["secret"])
        else:
            done.append(f"robot account {name}: there already, its secret is not shown again")
        policy = await self._find_policy()
        document = self._policy_document(address, authorization, payload)
        base = f"/projects/{quote(self._project)}/webhook/policies"
        if policy is None:
            done.append(f"webhook policy {self._policy}: created, {payload} to {address}")
            if not self._dry_run:
                await self._api.request("POST", base, document)
        else:
            done.append(f"webhook policy {self._policy}: updated, {payload} to {address}")
            if not self._dry_run:
                await self._api.request("PUT", f"{base}/{int(policy['id'])}", {**document, "id": int(policy["id"])})
        return Outcome(tuple(done), name, secret)

    async def remove(self) -> Outcome:
        """Take both away again; what is not there is fine."""
        project = await self._find_project()
        done: list[str] = []
        if policy := await self._find_policy():
            done.append(f"webhook policy {self._policy}: removed")
            if not self._dry_run:
                path = f"/projects/{quote(self._project)}/webhook/policies/{int(policy['id'])}"
                await self._api.request("DELETE", path, expected=_NOT_FOUND)
        if robot := await self._find_robot(project["project_id"]):
            done.append(f"robot account {robot['name']}: removed")
            if not self._dry_run:
                await self._api.request("DELETE", f"/robots/{int(robot['id'])}", expected=_NOT_FOUND)
        return Outcome(tuple(done) or ("nothing was there",))

    async def _find_project(self) -> dict[str, Any]:
        status, found = await self._api.request("GET", f"/projects/{quote(self._project)}", expected=_NOT_FOUND)
        if status == 404 or not isinstance(found, dict):
            raise PermanentError(
                f"Harbor has no project {self._project!r}, or this user may not see it", code="peer_refused"
            )
        if found.get("registry_id"):
            raise PermanentError(
                f"project {self._project} is a proxy cache: nothing can be pushed there", code="peer_refused"
            )
        return found

    async def _find_robot(self, project_id: object) -> dict[str, Any] | None:
        query = quote(f"Level=project,ProjectID={project_id}", safe="")
        _, found = await self._api.request("GET", f"/robots?q={query}&page_size=100")
        ending = f"{self._project}+{self._robot}"
        robots = found if isinstance(found, list) else []
        return next((each for each in robots if str(each.get("name", "")).endswith(ending)), None)

    async def _find_policy(self) -> dict[str, Any] | None:
        path = f"/projects/{quote(self._project)}/webhook/policies?page_size=100"
        _, found = await self._api.request("GET", path)
        policies = found if isinstance(found, list) else []
        return next((each for each in policies if each.get("name") == self._policy), None)

    def _robot_document(self) -> dict[str, Any]:
        access = [{"resource": "repository", "action": action} for action in ("pull", "push")]
        return {
            "name": self._robot,
            "description": "image conversion service",
            "level": "project",
            "duration": -1,
            "permissions": [{"kind": "project", "namespace": self._project, "access": access}],
        }

    def _policy_document(self, address: str, authorization: str, payload: PayloadFormat) -> dict[str, Any]:
        target = {
            "type": "http",
            "address": address,
            "auth_header": authorization,
            "skip_cert_verify": False,
            "payload_format": payload,
        }
        return {
            "name": self._policy,
            "description": "image conversion service",
            "enabled": True,
            "event_types": ["PUSH_ARTIFACT"],
            "targets": [target],
        }
