"""Lists: tags, the catalogue, referrers (distribution spec, sections Listing Tags and Listing Referrers). Pages are followed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import orjson
from yarl import URL

from shared.errors import LimitExceededError, PermanentError
from shared.oci import media_types
from shared.oci.descriptor import Descriptor
from shared.oci.manifest import MAXIMUM_MANIFEST_SIZE, Index
from shared.oci.reference import Reference, is_repository, is_tag
from shared.registry import manifests
from shared.registry.errors import Operation
from shared.registry.transport import Answer, Request, Transport, joined

_PAGE = "1000"
_MAXIMUM_PAGES = 100_000
_MAXIMUM_REFERRERS = 10_000
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_NEXT = re.compile(r';\s*rel\s*=\s*"?next"?\s*(?:[;,]|$)', re.IGNORECASE)


async def tags(transport: Transport, repository: Reference) -> AsyncGenerator[str, None]:
    """Every tag of a repository; what no tag can be is left out. An unknown repository has none."""
    operation = Operation("list_tags", repository.registry, repository.repository)
    path = f"/v2/{repository.repository}/tags/list"
    try:
        async for page in _pages(
            transport, operation, path, (f"repository:{repository.repository}:pull",), {"n": _PAGE}
        ):
            for tag in _names(operation, page, "tags"):
                if is_tag(tag):
                    yield tag
    except PermanentError as error:
        if error.code not in {"name_unknown", "not_found"}:
            raise


async def repositories(transport: Transport, registry: str) -> AsyncGenerator[str, None]:
    """Every repository of a registry that its credentials may list (``_catalog``, which the spec leaves to registries)."""
    operation = Operation("list_repositories", registry)
    async for page in _pages(transport, operation, "/v2/_catalog", ("registry:catalog:*",), {"n": _PAGE}):
        for name in _names(operation, page, "repositories"):
            if is_repository(name):
                yield name


async def referrers(
    transport: Transport, subject: Reference, artifact_type: str | None = None
) -> tuple[Descriptor, ...]:
    """The manifests whose ``subject`` is ``subject.digest``, by the referrers API, else by the tag ``sha256-<hex>``."""
    if subject.digest is None:
        raise ValueError("referrers are asked of a digest")
    operation = Operation("list_referrers", subject.registry, subject.repository, str(subject.digest))
    path = f"/v2/{subject.repository}/referrers/{subject.digest}"
    query = {"artifactType": artifact_type} if artifact_type else {}
    found: list[Descriptor] = []
    try:
        async for page in _pages(transport, operation, path, (f"repository:{subject.repository}:pull",), query):
            index = manifests.parsed(operation, page.body, media_types.OCI_INDEX)
            found += index.manifests if isinstance(index, Index) else ()
            if len(found) > _MAXIMUM_REFERRERS:
                raise LimitExceededError(
                    f"{operation}: more than {_MAXIMUM_REFERRERS} referrers", limit="referrers", **operation.details()
                )
    except PermanentError as error:
        if error.code not in {"not_found", "name_unknown", "manifest_unknown", "unsupported_by_registry"}:
            raise
        found += await _by_tag(transport, subject)
    return tuple(item for item in found if artifact_type is None or item.artifact_type == artifact_type)


async def _by_tag(transport: Transport, subject: Reference) -> tuple[Descriptor, ...]:
    tag = str(subject.digest).replace(":", "-")[:128]
    try:
        index = await manifests.get(transport, Reference(subject.registry, subject.repository, tag))
    except PermanentError as error:
        if error.code in {"manifest_unknown", "name_unknown"}:
            return ()
        raise
    return index.manifests if isinstance(index, Index) else ()


async def _pages(
    transport: Transport, operation: Operation, path: str, scopes: tuple[str, ...], query: Mapping[str, str]
) -> AsyncGenerator[Answer, None]:
    target: str | URL = path
    seen: set[int] = set()
    """Hashes: of a hundred thousand addresses the addresses themselves are too much to keep."""
    for _ in range(_MAXIMUM_PAGES):
        answer = await transport.send(
            Request(operation, "GET", target, frozenset({200}), scopes, query),
            limit=MAXIMUM_MANIFEST_SIZE,
            limit_name="page_size",
        )
        yield answer
        following = _next_page(answer.headers.getall("Link", []))
        if following is None:
            return
        target = joined(answer.url, following, operation)
        if hash(target) in seen:
            raise operation.permanent("the registry's pages go round in a circle", code="unexpected_answer")
        seen.add(hash(target))


def _next_page(headers: Iterable[str]) -> str | None:
    """The target of ``rel="next"`` (RFC 8288), in time linear in the headers' length."""
    links = (link for header in headers for link in _LINK.finditer(header))
    return next((link[1] for link in links if _NEXT.search(link[2])), None)


def _names(operation: Operation, page: Answer, key: str) -> list[str]:
    try:
        data: Any = orjson.loads(page.body)
    except orjson.JSONDecodeError as error:
        raise operation.permanent("the list is not JSON", code="unexpected_answer") from error
    names = data.get(key) if isinstance(data, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
