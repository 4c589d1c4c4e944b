"""From a push to conversions: where results go, and what is left alone."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from drivers.estargz.options import EstargzOptions
from drivers.nydus.options import NydusOptions
from shared.messages import ConversionRequest
from shared.oci.digest import Digest
from shared.oci.reference import Reference
from shared.planning import (
    BY_DIGEST,
    CACHE,
    HOST_NOT_ALLOWED,
    NO_RULE,
    TAG_TOO_LONG,
    TARGET_INVALID,
    TARGET_IS_SOURCE,
    TARGET_NOT_ALLOWED,
    Planner,
    PushEvent,
    expand_repository,
    target_tag,
)
from shared.settings.load import load_settings

MODELS: dict[str, type[BaseModel]] = {"estargz": EstargzOptions, "nydus": NydusOptions}
DIGEST = Digest.of(b"image")


def planner(*rules: dict[str, Any], **environ: str) -> Planner:
    values = {
        "ICS_AUTHS": '{"harbor.example.com": {}, "other.example.com:5000": {}, "harbor": {}}',
        "ICS_RULES": orjson.dumps(list(rules) or [{"target_suffix": "esgz"}]).decode(),
        **environ,
    }
    return Planner(load_settings(None, environ=values, option_models=MODELS))


def push(repository: str = "library/app", tag: str | None = "v1", registry: str = "harbor.example.com") -> PushEvent:
    return PushEvent(event_id="1", kind="PUSH_ARTIFACT", reference=Reference(registry, repository, tag, DIGEST))


def targets(plan: Any) -> list[str]:
    return [str(request.target) for request in plan.requests]


def reasons(plan: Any) -> list[str]:
    return [skip.reason for skip in plan.skipped]


@pytest.mark.parametrize(
    ("template", "repository", "expected"),
    [
        ("{repository}-lazy", "library/app", "harbor.example.com/library/app-lazy"),
        ("lazy/{name}", "library/a/b", "harbor.example.com/lazy/a/b"),
        ("{project}/ics-cache", "library/app", "harbor.example.com/library/ics-cache"),
        (
            "{project}/ics-cache",
            "team.a/app",
            "harbor.example.com/team.a/ics-cache",
        ),  # a dot makes no host of a project
        ("{name}/x", "library/my.app", "harbor.example.com/my.app/x"),
        ("{registry}/lazy/{repository}", "library/app", "harbor.example.com/lazy/library/app"),
        ("other.example.com:5000/{repository}", "library/app", "other.example.com:5000/library/app"),
        ("localhost/{name}", "library/app", "localhost/app"),
        ("index.docker.io/me/{name}", "library/app", "docker.io/me/app"),
        ("{project}/{name}", "app", "harbor.example.com/app/app"),  # a registry without projects
    ],
)
def test_a_template_names_a_repository(template: str, repository: str, expected: str) -> None:
    assert str(expand_repository(template, Reference("harbor.example.com", repository, "v1"))) == expected


@pytest.mark.parametrize(
    ("tag", "suffix", "expected"),
    [
        ("v1", "nydus", "v1_nydus"),
        ("v1", "-nydus", "v1-nydus"),
        ("v1", ".n", "v1.n"),
        ("v1", "_n", "v1_n"),
        ("v1", "", "v1"),
    ],
)
def test_a_suffix_is_joined_by_an_underscore_unless_it_brings_its_own(tag: str, suffix: str, expected: str) -> None:
    assert target_tag(tag, suffix) == expected


def test_another_registry_and_another_repository_take_the_results() -> None:
    plan = planner(
        {"name": "away", "target_repository": "other.example.com:5000/lazy/{name}"},
        {"name": "beside", "target_repository": "{project}/lazy/{name}", "target_suffix": "x"},
    ).plan(push())
    assert targets(plan) == ["other.example.com:5000/lazy/app:v1", "harbor.example.com/library/lazy/app:v1_x"]


def test_a_registry_without_a_dot_stays_itself_on_the_way_to_the_consumer() -> None:
    (request,) = planner({"target_repository": "{registry}/lazy/{name}"}).plan(push(registry="harbor")).requests
    arrived = ConversionRequest.model_validate_json(request.model_dump_json())
    assert (arrived.source.registry, str(arrived.target)) == ("harbor", "harbor/lazy/app:v1")


def test_what_cannot_be_a_target_is_skipped_with_its_reason() -> None:
    assert reasons(planner({"target_repository": "{project}.example.com/{name}"}).plan(push())) == [TARGET_NOT_ALLOWED]
    assert reasons(planner({"target_repository": "{repository}"}).plan(push())) == [TARGET_IS_SOURCE]
    long = "x/" * 120 + "app"
    assert reasons(planner({"target_repository": "{repository}/{name}"}).plan(push(long))) == [TARGET_INVALID]
    assert reasons(planner().plan(push(tag="v" * 128))) == [TAG_TOO_LONG]
    assert targets(planner({"overwrite": True}).plan(push())) == ["harbor.example.com/library/app:v1"]


def test_what_is_not_wanted_is_skipped_with_its_reason() -> None:
    one = planner({"target_suffix": "x", "match": {"repositories": {"include": ["library/*"]}}})
    assert reasons(one.plan(push(tag=None))) == [BY_DIGEST]
    assert reasons(one.plan(push(registry="unknown.example.com"))) == [HOST_NOT_ALLOWED]
    assert reasons(one.plan(push("team/app"))) == [NO_RULE]
    assert reasons(one.plan(push("library/ics-cache"))) == [CACHE]


@pytest.mark.parametrize(
    ("template", "repository"),
    [
        ("", "team.a/ics-cache"),
        ("caches/{name}", "caches/app"),
        ("{registry}/caches/{repository}", "caches/library/app"),
        ("harbor.example.com/caches", "caches"),
    ],
)
def test_the_converters_own_cache_is_left_alone_wherever_it_is(template: str, repository: str) -> None:
    environ = {"ICS_CACHE__REPOSITORY": template} if template else {}
    assert reasons(planner(**environ).plan(push(repository))) == [CACHE]


def test_the_same_push_is_the_same_conversion_and_another_event_another() -> None:
    one = planner()
    first, again = (one.plan(push()).requests[0].id for _ in range(2))
    other = one.plan(PushEvent(event_id="2", kind="PUSH_ARTIFACT", reference=push().reference)).requests[0].id
    assert first == again != other


@pytest.mark.parametrize(
    ("rule", "tag", "repository", "may"),
    [
        ({"target_suffix": "esgz"}, "v1_esgz", "library/app", True),
        ({"target_suffix": "-nydus"}, "v1-nydus", "library/app", True),
        ({"target_suffix": "esgz"}, "v1", "library/app", False),
        ({"target_suffix": "esgz"}, "v1esgz", "library/app", False),
        ({"target_suffix": "esgz", "target_repository": "lazy/{name}"}, "v1_esgz", "lazy/app", True),
        ({"target_suffix": "esgz", "target_repository": "lazy/{name}"}, "v1_esgz", "library/app", False),
        ({"target_suffix": "", "target_repository": "lazy/{name}"}, "v1", "lazy/app", True),
        ({"target_suffix": "", "overwrite": True}, "v1", "library/app", False),
    ],
)
def test_what_is_named_as_targets_are_may_be_one(rule: dict[str, Any], tag: str, repository: str, *, may: bool) -> None:
    assert planner(rule).may_be_target(Reference("harbor.example.com", repository, tag)) is may
