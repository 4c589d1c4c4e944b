"""Pointing a Harbor project at ICS over Harbor's API: the webhook policy, and a robot account with least rights.

A robot's secret is told once, so the robot is made last, and taken away again if its secret cannot be handed over: no run
leaves a robot behind whose secret nobody has. The webhook's ``Authorization`` stays what Harbor has, unless it is asked for
anew: a second run changes nothing that is right already, and repairs what a first one left undone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from cli.harbor.intent import Intent, Outcome, PayloadFormat
from cli.harbor.robot import HarborRobot, told_rights
from cli.harbor.steps import reworded, step
from shared.errors import IcsError, PermanentError
from shared.outgoing.harbor_api import HarborApi

_NOT_FOUND = frozenset({404})


class HarborSetup:
    """One project of one Harbor. Everything may be repeated: what is there already is brought up to date.

    Args:
        dry_run: only say what would be done.
    """

    def __init__(self, api: HarborApi, intent: Intent, *, dry_run: bool = False) -> None:
        self._api = api
        self._intent = intent
        self._dry_run = dry_run
        self._robot = HarborRobot(api, intent, dry_run=dry_run)
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
        robot = await self._robot.find(project_id)
        policy = await self._find_policy()
        chosen = authorization or _authorization_of(policy) or f"Bearer {secrets.token_urlsafe(32)}"
        done = await self._apply_label(project_id)
        done.append(await self._apply_policy(policy, self._policy_document(address, chosen, payload)))
        if robot is not None:
            lines, secret = await self._robot.update(robot, new_secret=new_secret)
            outcome = Outcome((*done, *lines), str(robot["name"]), secret, chosen)
            if not self._dry_run:
                hand_over(outcome)
            return outcome
        done.append(f"robot account {self._intent.robot}: created, may {told_rights(self._intent.rights)}")
        if self._dry_run:
            return Outcome(tuple(done), self._intent.robot)
        robot_id, name, secret = await self._robot.create(project_id)
        outcome = Outcome(tuple(done), name, secret, chosen)
        try:
            hand_over(outcome)
        except BaseException as error:
            left = await self._robot.undo(robot_id, name)
            if isinstance(error, IcsError):
                raise reworded(error, f"{error.message}; {left}") from error
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
        if robot := await self._robot.find(project["project_id"]):
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
            with step(f"label {label} could not be made; nothing was changed"):
                await self._api.create_label(project_id, label)
        return [f"label {label}: created"]

    async def _apply_policy(self, policy: dict[str, Any] | None, document: dict[str, Any]) -> str:
        name, target = self._intent.policy, document["targets"][0]
        what = f"{target['payload_format']} to {target['address']}"
        if policy is None:
            if not self._dry_run:
                with step(f"webhook policy {name} could not be made, and no robot account was; run again"):
                    await self._api.request("POST", self._policies, document)
            return f"webhook policy {name}: created, {what}"
        if _holds(policy, document):
            return f"webhook policy {name}: there already, {what}"
        if not self._dry_run:
            number = int(policy["id"])
            with step(f"webhook policy {name} could not be updated; run again"):
                await self._api.request("PUT", f"{self._policies}/{number}", {**document, "id": number})
        return f"webhook policy {name}: updated, {what}"

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
