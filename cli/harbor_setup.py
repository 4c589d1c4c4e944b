"""Pointing a Harbor project at ICS over Harbor's API: the webhook policy, and a robot account with least rights.

A robot's secret is told once, so the robot is made last, and taken away again if its secret cannot be handed over: no run
leaves a robot behind whose secret nobody has. The webhook's ``Authorization`` stays what Harbor has, unless it is asked for
anew: a second run changes nothing that is right already, and repairs what a first one left undone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from shared.errors import IcsError, PermanentError, TransientError
from shared.outgoing.harbor_api import HarborApi

PayloadFormat = Literal["CloudEvents", "Default"]
Rights = frozenset[tuple[str, str]]
"""(resource, action) pairs in Harbor's words."""
CONVERT: Rights = frozenset({("repository", "pull"), ("repository", "push")})
LABEL: Rights = frozenset({("project", "read"), ("label", "list"), ("artifact-label", "create")})
"""To find a label of the project and put it on an artifact; the label itself is made by the setup."""
LIST: Rights = frozenset({("project", "read"), ("repository", "list"), ("artifact", "list")})
"""To walk the project for a backfill."""
UNDO_TIMEOUT = 20.0
"""Seconds to take a robot away again."""
_NOT_FOUND = frozenset({404})


@dataclass(frozen=True, slots=True)
class Intent:
    """What a project is to have.

    Args:
        project: its name.
        robot: name of the robot account, without Harbor's prefix.
        policy: name of the webhook policy.
        label: a label that conversions put on source artifacts; empty for none. Made if it is missing.
        backfill: whether the robot may walk the project over Harbor's API.
    """

    project: str
    robot: str = "ics"
    policy: str = "ics"
    label: str = ""
    backfill: bool = False

    @property
    def rights(self) -> Rights:
        return CONVERT | (LABEL if self.label else frozenset()) | (LIST if self.backfill else frozenset())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and the secrets that belong to it."""

    done: tuple[str, ...]
    """For people: each line one thing."""
    robot_name: str = ""
    """As Harbor calls it, prefix and all."""
    robot_secret: str = field(default="", repr=False)
    """Told when the robot is made or gets a new one; empty where it was there already."""
    authorization: str = field(default="", repr=False)
    """What Harbor sends as ``Authorization``."""


class HarborSetup:
    """One project of one Harbor. Everything may be repeated: what is there already is brought up to date.

    Args:
        dry_run: only say what would be done.
    """

    def __init__(self, api: HarborApi, intent: Intent, *, dry_run: bool = False) -> None:
        self._api = api
        self._intent = intent
        self._dry_run = dry_run
        self._policies = f"/projects/{quote(intent.project)}/webhook/policies"

    async def apply(
        self,
        address: str,
        payload: PayloadFormat,
        hand_over: Callable[[Outcome], None],
        *,
        authorization: str = "",
        new_secret: bool = False,
    ) -> Outcome:
        """Bring label, webhook policy and robot about, in this order.

        Args:
            address: URL of the ingress' webhook endpoint, as Harbor reaches it.
            payload: the dialect; CloudEvents carries ids that make repeated deliveries one.
            hand_over: called last, with everything; if it raises, a robot made by this run is removed again. Not called in a
                dry run.
            authorization: exact value that Harbor sends as ``Authorization``; empty keeps the policy's, or makes one.
            new_secret: give a robot that is there already a new secret.

        Raises:
            PermanentError: ``peer_refused`` (no such project, no rights), TransientError: ``peer_unavailable``; the message
                says which step failed and what stands.
        """
        project_id = (await self._find_project())["project_id"]
        robot = await self._find_robot(project_id)
        policy = await self._find_policy()
        chosen = authorization or _authorization_of(policy) or f"Bearer {secrets.token_urlsafe(32)}"
        done = await self._apply_label(project_id)
        done.append(await self._apply_policy(policy, self._policy_document(address, chosen, payload)))
        if robot is not None:
            lines, secret = await self._update_robot(robot, new_secret=new_secret)
            outcome = Outcome((*done, *lines), str(robot["name"]), secret, chosen)
            if not self._dry_run:
                hand_over(outcome)
            return outcome
        done.append(f"robot account {self._intent.robot}: created, may {_told(self._intent.rights)}")
        if self._dry_run:
            return Outcome(tuple(done), self._intent.robot)
        robot_id, name, secret = await self._create_robot(project_id)
        outcome = Outcome(tuple(done), name, secret, chosen)
        try:
            hand_over(outcome)
        except BaseException as error:
            left = await self._undo(robot_id, name)
            if isinstance(error, IcsError):
                raise _with(error, f"{error.message}; {left}") from error
            raise
        return outcome

    async def remove(self) -> Outcome:
        """Take policy and robot away again; what is not there is fine. A label stays: artifacts carry it."""
        project = await self._find_project()
        done: list[str] = []
        if policy := await self._find_policy():
            done.append(f"webhook policy {self._intent.policy}: removed")
            if not self._dry_run:
                await self._api.request("DELETE", f"{self._policies}/{int(policy['id'])}", expected=_NOT_FOUND)
        if robot := await self._find_robot(project["project_id"]):
            done.append(f"robot account {robot['name']}: removed")
            if not self._dry_run:
                await self._api.request("DELETE", f"/robots/{int(robot['id'])}", expected=_NOT_FOUND)
        return Outcome(tuple(done) or ("nothing was there",))

    async def _find_project(self) -> dict[str, Any]:
        name = self._intent.project
        status, found = await self._api.request("GET", f"/projects/{quote(name)}", expected=_NOT_FOUND)
        if status == 404 or not isinstance(found, dict) or "project_id" not in found:
            raise PermanentError(f"Harbor has no project {name!r}, or this user may not see it", code="peer_refused")
        if found.get("registry_id"):
            raise PermanentError(f"project {name} is a proxy cache: nothing can be pushed there", code="peer_refused")
        return found

    async def _find_robot(self, project_id: object) -> dict[str, Any] | None:
        query = quote(f"Level=project,ProjectID={project_id}", safe="")
        ending = f"{self._intent.project}+{self._intent.robot}"  # behind Harbor's configurable prefix
        async for each in self._api.pages(f"/robots?q={query}"):
            if str(each.get("name", "")).endswith(ending):
                return each
        return None

    async def _find_policy(self) -> dict[str, Any] | None:
        async for each in self._api.pages(self._policies):
            if each.get("name") == self._intent.policy:
                return each
        return None

    async def _apply_label(self, project_id: object) -> list[str]:
        label = self._intent.label
        if not label:
            return []
        if await self._api.find_label(project_id, label) is not None:
            return [f"label {label}: there already"]
        if not self._dry_run:
            with _step(f"label {label} could not be made; nothing was changed"):
                await self._api.create_label(project_id, label)
        return [f"label {label}: created"]

    async def _apply_policy(self, policy: dict[str, Any] | None, document: dict[str, Any]) -> str:
        name, target = self._intent.policy, document["targets"][0]
        what = f"{target['payload_format']} to {target['address']}"
        if policy is None:
            if not self._dry_run:
                with _step(f"webhook policy {name} could not be made, and no robot account was; run again"):
                    await self._api.request("POST", self._policies, document)
            return f"webhook policy {name}: created, {what}"
        if _holds(policy, document):
            return f"webhook policy {name}: there already, {what}"
        if not self._dry_run:
            number = int(policy["id"])
            with _step(f"webhook policy {name} could not be updated; run again"):
                await self._api.request("PUT", f"{self._policies}/{number}", {**document, "id": number})
        return f"webhook policy {name}: updated, {what}"

    async def _update_robot(self, robot: dict[str, Any], *, new_secret: bool) -> tuple[list[str], str]:
        name, path = str(robot["name"]), f"/robots/{int(robot['id'])}"
        lines: list[str] = []
        stands = f"the webhook policy {self._intent.policy} is up to date; run again"
        if _rights_of(robot, self._intent.project) != self._intent.rights or robot.get("disable"):
            lines.append(f"robot account {name}: updated, may {_told(self._intent.rights)}")
            if not self._dry_run:
                document = self._robot_document() | {"name": name, "duration": robot.get("duration", -1)}
                with _step(f"robot account {name} could not be updated; {stands}"):
                    await self._api.request("PUT", path, {**document, "id": int(robot["id"]), "disable": False})
        if not new_secret:
            return [*lines, f"robot account {name}: there already, its secret is not shown again"], ""
        lines.append(f"robot account {name}: has a new secret, the old one is void")
        if self._dry_run:
            return lines, ""
        with _step(f"robot account {name} got no new secret; {stands}"):
            _, answer = await self._api.request("PATCH", path, {"secret": ""})
        secret = str(answer.get("secret") or "") if isinstance(answer, dict) else ""
        if not secret:
            raise PermanentError(f"Harbor told no new secret for robot account {name}", code="peer_refused")
        return lines, secret

    async def _create_robot(self, project_id: object) -> tuple[int, str, str]:
        """Id, name, secret. An answer that is lost or makes no sense leaves no robot behind."""
        robot, stands = self._intent.robot, f"the webhook policy {self._intent.policy} stands; run again, or --remove"
        try:
            _, made = await self._api.request("POST", "/robots", self._robot_document())
            if isinstance(made, dict) and made.get("name") and made.get("secret"):
                return int(made["id"]), str(made["name"]), str(made["secret"])
        except PermanentError as error:  # refused: none was made, and one that is in the way is not ours
            raise _with(error, f"robot account {robot} could not be made: {error.message}; {stands}") from error
        except BaseException as error:
            left = await self._undo_unseen(project_id)
            if isinstance(error, IcsError):
                raise _with(
                    error, f"robot account {robot} could not be made: {error.message}; {left}; {stands}"
                ) from error
            raise
        left = await self._undo_unseen(project_id)
        raise PermanentError(f"Harbor told no secret for robot account {robot}; {left}; {stands}", code="peer_refused")

    async def _undo_unseen(self, project_id: object) -> str:
        """After a creation without a sensible answer: look whether it happened."""
        try:
            async with asyncio.timeout(UNDO_TIMEOUT):
                robot = await self._find_robot(project_id)
        except (IcsError, TimeoutError):
            return "whether Harbor made it is not known, and a robot account without a known secret may be left"
        return "it was not made" if robot is None else await self._undo(int(robot["id"]), str(robot["name"]))

    async def _undo(self, robot_id: int, name: str) -> str:
        """Take a robot away whose secret nobody has; what became of it, in words."""
        try:
            async with asyncio.timeout(UNDO_TIMEOUT):
                await self._api.request("DELETE", f"/robots/{robot_id}", expected=_NOT_FOUND)
        except (IcsError, TimeoutError):
            return f"robot account {name} is left without a known secret: run again with --new-robot-secret"
        return f"robot account {name} was removed again"

    def _robot_document(self) -> dict[str, Any]:
        access = [{"resource": resource, "action": action} for resource, action in sorted(self._intent.rights)]
        return {
            "name": self._intent.robot,
            "description": "image conversion service",
            "level": "project",
            "duration": -1,
            "permissions": [{"kind": "project", "namespace": self._intent.project, "access": access}],
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
            "name": self._intent.policy,
            "description": "image conversion service",
            "enabled": True,
            "event_types": ["PUSH_ARTIFACT"],
            "targets": [target],
        }


@contextmanager
def _step(failed: str) -> Iterator[None]:
    """Errors say which step it was and what stands."""
    try:
        yield
    except IcsError as error:
        raise _with(error, f"{failed}: {error.message}") from error


def _with(error: IcsError, message: str) -> IcsError:
    """The same error in other words."""
    if isinstance(error, TransientError):
        return TransientError(message, code=error.code, retry_after=error.retry_after, **error.details)
    return PermanentError(message, code=error.code, **error.details)


def _authorization_of(policy: dict[str, Any] | None) -> str:
    targets = policy.get("targets") if policy else None
    first = targets[0] if isinstance(targets, list) and targets else None
    return str(first.get("auth_header") or "") if isinstance(first, dict) else ""


def _holds(policy: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether a policy already is what is wanted; what Harbor adds of its own does not count."""
    found = policy.get("targets")
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        return False
    same = all(found[0].get(key) == value for key, value in document["targets"][0].items())
    return same and all(policy.get(key) == document[key] for key in ("enabled", "event_types"))


def _rights_of(robot: dict[str, Any], project: str) -> Rights | None:
    """None where they reach beyond the project or cannot be told."""
    permissions = robot.get("permissions")
    if not isinstance(permissions, list) or len(permissions) != 1 or permissions[0].get("namespace") != project:
        return None
    access = permissions[0].get("access") or []
    return frozenset((str(each.get("resource")), str(each.get("action"))) for each in access)


def _told(rights: Rights) -> str:
    return ", ".join(f"{action} {resource}" for resource, action in sorted(rights))
