"""A project of Harbor is set up, brought up to date, and left as it was; whatever fails leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from cli.harbor.intent import Intent, Outcome
from cli.harbor.setup import HarborSetup
from shared.errors import PermanentError, TransientError
from shared.oci.reference import parse_reference
from shared.outgoing.harbor_api import HarborApi
from shared.outgoing.http import create_session
from shared.settings.model import HarborSettings
from tests.servers.harbor import PASSWORD, USER, Harbor, running_harbor

HOOK = "https://ics.example.com/conversion"
POLICIES = "/projects/library/webhook/policies"


@asynccontextmanager
async def harbor() -> AsyncIterator[tuple[Harbor, HarborApi]]:
    async with running_harbor() as state, create_session() as session:
        yield state, HarborApi(HarborSettings(url=state.url, username=USER, password=SecretStr(PASSWORD)), session)


class Hands:
    """Takes what is handed over, or drops it."""

    def __init__(self, *, full: bool = False) -> None:
        self.taken: list[Outcome] = []
        self.full = full

    def __call__(self, outcome: Outcome) -> None:
        if self.full:
            raise PermanentError("cannot write robot: No space left on device", code="cannot_write")
        self.taken.append(outcome)


def rights(state: Harbor) -> set[tuple[str, str]]:
    ((permission,),) = [each["permissions"] for each in state.robots]
    return {(each["resource"], each["action"]) for each in permission["access"]}


async def test_setup_makes_a_policy_and_a_robot_with_least_rights() -> None:
    async with harbor() as (state, api):
        hands = Hands()
        outcome = await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", hands, authorization="Bearer x")
        assert (outcome.robot_name, outcome.robot_secret) == ("robot$library+ics", "Robot5ecret")
        assert hands.taken == [outcome]
        assert rights(state) == {("repository", "pull"), ("repository", "push")}
        (policy,) = state.policies
        assert policy["event_types"] == ["PUSH_ARTIFACT"]
        assert policy["targets"][0]["auth_header"] == "Bearer x"
        assert policy["targets"][0]["payload_format"] == "CloudEvents"
        assert "Robot5ecret" not in repr(outcome)


async def test_what_labels_and_backfills_need_is_granted_only_where_it_is_asked_for() -> None:
    async with harbor() as (state, api):
        state.labels += [{"id": number, "name": f"lazy-{number}"} for number in range(120)]  # fuzzy matches, two pages
        await HarborSetup(api, Intent("library", label="lazy")).apply(HOOK, "Default", Hands())
        least = {("repository", "pull"), ("repository", "push")}
        label = {("project", "read"), ("label", "list"), ("artifact-label", "create")}
        assert rights(state) == least | label
        assert state.labels[-1]["name"] == "lazy"
        assert (state.labels[-1]["scope"], state.labels[-1]["project_id"]) == ("p", 1)
        walk = {("project", "read"), ("repository", "list"), ("artifact", "list")}
        again = await HarborSetup(api, Intent("library", backfill=True)).apply(HOOK, "Default", Hands())
        assert rights(state) == least | walk
        assert any("updated, may list artifact" in line for line in again.done)
        (robot,) = state.robots
        assert (robot["name"], robot["level"], robot["duration"]) == ("robot$library+ics", "project", -1)


async def test_an_artifact_gets_the_label_that_the_setup_made() -> None:
    async with harbor() as (state, api):
        await HarborSetup(api, Intent("library", label="lazy")).apply(HOOK, "Default", Hands())
        digest = "sha256:" + "2" * 64
        await api.label_artifact(parse_reference(f"h.example.com/library/team/app@{digest}"), "lazy")
        assert state.labelled == [("team/app", digest, 50)]
        assert len(state.labels) == 1


async def test_setup_again_changes_nothing_that_is_right() -> None:
    async with harbor() as (state, api):
        first = await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands())
        state.writes.clear()
        hands = Hands()
        again = await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", hands)
        assert state.writes == []
        assert again.robot_secret == ""
        assert again.authorization == first.authorization != ""
        assert hands.taken == [again]


async def test_setup_again_updates_the_policy_and_leaves_the_robot() -> None:
    async with harbor() as (state, api):
        setup = HarborSetup(api, Intent("library"))
        await setup.apply("https://old.example.com/", "CloudEvents", Hands(), authorization="Bearer x")
        await setup.apply("https://new.example.com/", "Default", Hands(), authorization="Bearer y")
        assert len(state.robots) == len(state.policies) == 1
        assert state.policies[0]["targets"][0]["address"] == "https://new.example.com/"
        assert state.policies[0]["targets"][0]["auth_header"] == "Bearer y"


async def test_robots_and_policies_are_found_on_every_page() -> None:
    async with harbor() as (state, api):
        setup = HarborSetup(api, Intent("library"))
        await setup.apply(HOOK, "CloudEvents", Hands())
        state.robots[:0] = [{"id": number, "name": f"robot$library+x{number}"} for number in range(205)]
        state.policies[:0] = [{"id": 1000 + number, "name": f"p{number}", "targets": []} for number in range(205)]
        state.writes.clear()
        await setup.apply(HOOK, "CloudEvents", Hands())
        assert state.writes == []
        await setup.remove()
        assert (len(state.robots), len(state.policies)) == (205, 205)


async def test_a_new_secret_is_given_where_it_is_asked_for() -> None:
    async with harbor() as (state, api):
        setup = HarborSetup(api, Intent("library"))
        await setup.apply(HOOK, "CloudEvents", Hands())
        state.robots[0]["disable"] = True
        outcome = await setup.apply(HOOK, "CloudEvents", Hands(), new_secret=True)
        assert outcome.robot_secret == "N3wsecret"
        assert state.robots[0]["disable"] is False
        assert len(state.robots) == 1


async def test_a_dry_run_writes_nothing_and_removing_takes_everything_away() -> None:
    async with harbor() as (state, api):
        intent = Intent("library", label="lazy", backfill=True)
        hands = Hands()
        dry = HarborSetup(api, intent, dry_run=True)
        assert len((await dry.apply(HOOK, "CloudEvents", hands)).done) == 3
        assert state.writes == []
        wet = HarborSetup(api, intent)
        await wet.apply(HOOK, "CloudEvents", Hands())
        state.writes.clear()
        await dry.apply("https://other.example.com/", "Default", hands, new_secret=True)
        await dry.remove()
        assert (state.writes, hands.taken) == ([], [])
        assert len((await wet.remove()).done) == 2
        assert state.robots == state.policies == []
        assert (await wet.remove()).done == ("nothing was there",)


@pytest.mark.parametrize("status", [400, 403, 500, 0])
async def test_without_its_policy_no_robot_is_made(status: int) -> None:
    async with harbor() as (state, api):
        state.failures[f"POST {POLICIES}"] = status
        hands = Hands()
        with pytest.raises(
            (PermanentError, TransientError), match="webhook policy ics could not be made, and no robot"
        ):
            await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", hands)
        assert state.robots == []
        assert hands.taken == []
        state.failures.clear()
        assert (await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", hands)).robot_secret


async def test_a_header_that_harbor_took_without_answering_is_the_one_that_is_used() -> None:
    async with harbor() as (state, api):
        state.lost.add(f"POST {POLICIES}")
        with pytest.raises(TransientError):
            await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands())
        state.lost.clear()
        outcome = await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands())
        assert [each["targets"][0]["auth_header"] for each in state.policies] == [outcome.authorization]


async def test_a_robot_whose_secret_cannot_be_handed_over_is_removed_again() -> None:
    async with harbor() as (state, api):
        with pytest.raises(PermanentError, match=r"No space left.*robot account robot\$library\+ics was removed again"):
            await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands(full=True))
        assert state.robots == []
        hands = Hands()
        await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", hands)
        assert hands.taken[0].robot_secret == "Robot5ecret"


async def test_a_robot_that_cannot_even_be_removed_is_named() -> None:
    async with harbor() as (state, api):
        state.failures["DELETE /robots/700"] = 500
        with pytest.raises(PermanentError, match="is left without a known secret: run again with --new-robot-secret"):
            await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands(full=True))
        outcome = await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands(), new_secret=True)
        assert outcome.robot_secret == "N3wsecret"


async def test_a_robot_that_was_made_without_an_answer_is_removed_again() -> None:
    async with harbor() as (state, api):
        state.lost.add("POST /robots")
        with pytest.raises(TransientError, match="was removed again"):
            await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands())
        assert state.robots == []


async def test_a_robot_without_a_secret_is_removed_again() -> None:
    async with harbor() as (state, api):
        state.secretless = True
        with pytest.raises(PermanentError, match="told no secret"):
            await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands())
        assert state.robots == []


@pytest.mark.parametrize("status", [403, 409, 500])
async def test_a_refused_robot_leaves_the_others_alone(status: int) -> None:
    async with harbor() as (state, api):
        state.robots.append({"id": 3, "name": "robot$library+other"})
        state.failures["POST /robots"] = status
        with pytest.raises(
            (PermanentError, TransientError), match=r"robot account ics could not be made.*policy ics stands"
        ):
            await HarborSetup(api, Intent("library")).apply(HOOK, "CloudEvents", Hands())
        assert len(state.robots) == 1
        assert not any(write.startswith("DELETE") for write in state.writes)


async def test_what_harbor_says_is_passed_on() -> None:
    async with harbor() as (state, api):
        state.failures["POST /labels"] = 403
        with pytest.raises(
            PermanentError, match=r"label lazy could not be made; nothing was changed.*403: as the test"
        ):
            await HarborSetup(api, Intent("library", label="lazy")).apply(HOOK, "Default", Hands())
        assert state.policies == []


@pytest.mark.parametrize("project", ["nowhere", "proxy"])
async def test_a_project_that_cannot_be_set_up_says_why(project: str) -> None:
    async with harbor() as (state, api):
        with pytest.raises(PermanentError, match=project):
            await HarborSetup(api, Intent(project)).apply(HOOK, "Default", Hands())
        assert state.writes == []
