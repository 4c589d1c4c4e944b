"""From a push to conversions: which rules want it, and where each result goes. Pure: settings and a push in, requests out.

The ingress, the backfill and ``ics convert`` plan with the same code, so that the same push means the same conversions.

Loops are broken in layers. Here: who pushed (``operators_to_ignore``), tags that only signatures have, the converter's own
cache. Not here: a tag that looks like one of our targets. A user may name a tag ``v1_esgz``; whether an image is a converter's
output is told by its manifest, which the consumer reads before anything else, and which names every ICS instance's mark.
A backfill reads it of such tags too, so as not to ask for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from shared.errors import PermanentError
from shared.messages import ConversionRequest, DriverChoice, request_id
from shared.oci.reference import Reference, is_repository, is_tag, normal_registry, parse_written
from shared.settings.model import Rule, Settings

BY_DIGEST = "pushed by digest: an index or a tag has an event of its own"
BY_ICS = "pushed by ICS itself"
CACHE = "the converter's own cache"
CONVERTED = "made by a converter"
HOST_NOT_ALLOWED = "registry not allowed"
NO_RULE = "no rule matches"
SIGNATURE = "signature, attestation or SBOM"
TAG_TOO_LONG = "target tag longer than 128 characters"
TARGET_INVALID = "target repository is not valid for this source"
TARGET_IS_SOURCE = "target is the source and overwrite is not set"
TARGET_NOT_ALLOWED = "target registry not allowed"

_COSIGN_TAG = re.compile(r"sha(?:256-[0-9a-f]{64}|512-[0-9a-f]{128})(?:\.[A-Za-z0-9.]+)?")
"""cosign's tag scheme (``.sig`` ``.att`` ``.sbom``) and the OCI referrers fallback (the same without an extension)."""
_CACHE_NAME = "ics-cache"


class PushEvent(NamedTuple):
    """One pushed manifest, whatever dialect told of it."""

    event_id: str
    """CloudEvents id, a notification's id, or the hash of the body: a repeated delivery has the same."""
    kind: str
    """The sender's own name for the event."""
    reference: Reference
    """With tag and digest as far as the sender told; a tag that only repeats the digest is left out."""
    operator: str = ""
    request_id: str = ""
    """The sender's, for people who compare logs."""
    occurred_at: datetime | None = None


class Skip(NamedTuple):
    """A push, or one rule's share of it, that leads to no conversion."""

    reference: Reference
    reason: str
    """A short stable phrase."""
    rule: str = ""


class Plan(NamedTuple):
    requests: tuple[ConversionRequest, ...] = ()
    skipped: tuple[Skip, ...] = ()


class Planner:
    """The rules of one configuration, made ready for many pushes."""

    def __init__(self, settings: Settings) -> None:
        self._rules = [(rule, _driver(settings, rule), _platforms(rule)) for rule in settings.rules]
        self._allowed = allowed_registries(settings)
        self._operators = frozenset(settings.operators_to_ignore)
        self._targets = [
            (_template_pattern(rule.target_repository or "{repository}"), target_tag("", rule.target_suffix))
            for rule in settings.rules
            if rule.target_suffix or rule.target_repository
        ]
        self._cache = _template_pattern(settings.cache.repository or f"{{project}}/{_CACHE_NAME}")
        self._cache_tags = frozenset(
            str(tag) for _rule, driver, _ in self._rules if (tag := driver.config.get("build_cache_tag"))
        )

    def plan(self, push: PushEvent) -> Plan:
        """What the rules make of a push. Never raises: what cannot be converted is skipped with a reason."""
        if reason := self._unwanted(push):
            return Plan(skipped=(Skip(push.reference, reason),))
        requests: list[ConversionRequest] = []
        skipped: list[Skip] = []
        source = push.reference
        for rule, driver, platforms in self._rules:
            if not _wants(rule, source):
                continue
            target = self._target(rule, source)
            if isinstance(target, str):
                skipped.append(Skip(source, target, rule.name))
                continue
            requests.append(
                ConversionRequest(
                    id=request_id(push.event_id, source.digest or "", rule.name, target),
                    source=source,
                    target=target,
                    rule=rule.name,
                    driver=driver,
                    oci=rule.oci,
                    platforms=platforms,
                    requested_at=datetime.now(UTC),
                    event_id=push.event_id,
                    harbor_request_id=push.request_id,
                    operator=push.operator,
                )
            )
        if not requests and not skipped:
            skipped.append(Skip(source, NO_RULE))
        return Plan(tuple(requests), tuple(skipped))

    def plan_source(self, source: Reference) -> Sequence[ConversionRequest] | str:
        """For the backfill: the requests for what exists already, or the reason for none. Ids depend on content and rules only."""
        plan = self.plan(PushEvent(event_id="", kind="backfill", reference=source))
        return plan.requests or plan.skipped[0].reason

    def may_be_target(self, source: Reference) -> bool:
        """Whether a rule gives its targets names like this; whether a converter made it only its manifest can tell."""
        name, tag = f"{source.registry}/{source.repository}", source.tag or ""
        return any(place.fullmatch(name) and tag.endswith(ending) for place, ending in self._targets)

    def _unwanted(self, push: PushEvent) -> str:
        source = push.reference
        if source.tag is None:
            return BY_DIGEST
        if push.operator in self._operators:
            return BY_ICS
        if _COSIGN_TAG.fullmatch(source.tag):
            return SIGNATURE
        if normal_registry(source.registry) not in self._allowed:
            return HOST_NOT_ALLOWED
        if self._cache.fullmatch(f"{source.registry}/{source.repository}") or source.tag in self._cache_tags:
            return CACHE
        return ""

    def _target(self, rule: Rule, source: Reference) -> Reference | str:
        """Where a rule's result goes, or why it cannot go anywhere."""
        tag = target_tag(source.tag or "", rule.target_suffix)
        if not is_tag(tag):
            return TAG_TOO_LONG
        try:
            place = expand_repository(rule.target_repository, source) if rule.target_repository else source
        except PermanentError:
            return TARGET_INVALID
        if normal_registry(place.registry) not in self._allowed:
            return TARGET_NOT_ALLOWED
        if not rule.overwrite and tag == source.tag and place.same_repository(source):
            return TARGET_IS_SOURCE
        return Reference(place.registry, place.repository, tag)


def allowed_registries(settings: Settings) -> frozenset[str]:
    """What may be contacted, by :func:`normal_registry`: ``auths``, and what ``endpoints`` leads to one of them."""
    named = {normal_registry(host) for host in settings.auths}
    leading = {normal_registry(host) for host, at in settings.endpoints.items() if normal_registry(at) in named}
    return frozenset(named | leading)


def target_tag(tag: str, suffix: str) -> str:
    """``latest`` and ``nydus`` give ``latest_nydus``; a suffix beginning with ``-``, ``_`` or ``.`` is used as it is."""
    if not suffix:
        return tag
    return f"{tag}{suffix}" if suffix[0] in "-_." else f"{tag}_{suffix}"


def expand_repository(template: str, source: Reference) -> Reference:
    """``[registry/]path`` with ``{registry}`` ``{repository}`` ``{project}`` ``{name}`` filled in from ``source``; without a tag.

    The project is the first part of the path, the name is the rest (Harbor's own division). A template without a registry
    stays at the source's.

    Raises:
        PermanentError: ``invalid_reference``.
    """
    project, slash, name = source.repository.partition("/")
    values = {
        "registry": source.registry,
        "repository": source.repository,
        "project": project,
        "name": name if slash else project,
    }
    text = re.sub(r"\{(registry|repository|project|name)\}", lambda found: values[found[1]], template)
    registry, path = source.registry, text
    if _names_registry(template):
        head, _, path = text.partition("/")
        registry = parse_written(f"{head}/{path}").registry
    if not is_repository(path):
        raise PermanentError(f"not a repository name (lower-case path): {path[:150]!r}", code="invalid_reference")
    return Reference(registry, path)


def _names_registry(template: str) -> bool:
    """By the template's own text: a project may have a dot in its name too."""
    head, slash, _ = template.partition("/")
    return bool(slash) and (head == "{registry}" or "." in head or ":" in head or head == "localhost")


def _wants(rule: Rule, source: Reference) -> bool:
    return rule.match.repositories.matches(source.repository) and rule.match.tags.matches(source.tag or "")


def _driver(settings: Settings, rule: Rule) -> DriverChoice:
    chosen = settings.driver_of(rule)
    return DriverChoice(type=chosen.type, config=chosen.config)


def _platforms(rule: Rule) -> tuple[str, ...]:
    return tuple(part.strip() for part in rule.platform.split(",") if part.strip())


def _template_pattern(template: str) -> re.Pattern[str]:
    """What repositories a template of :func:`expand_repository` can name, as ``registry/path``."""
    parts = re.split(r"\{(?:registry|repository|project|name)\}", template)
    pattern = ".+".join(re.escape(part) for part in parts)
    return re.compile(pattern if _names_registry(template) else f"[^/]+/{pattern}")
