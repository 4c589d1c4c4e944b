"""Image references with Docker Hub's normalisation (distribution's ``reference`` grammar)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from shared.errors import PermanentError
from shared.oci.digest import Digest

DOCKER_HUB = "docker.io"
_DOCKER_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "www.docker.io"})
_HOST = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VISIBLE = re.compile(r"[!-~]{1,1024}")
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")
"""A local image id; Docker never takes one for a name."""
_KNOWN = 2048
"""Names that are remembered: webhooks, messages and events name the same registries and repositories again and again."""
_LEGACY_DIGEST = re.compile(r"(.+):(sha256:[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Reference:
    """``registry/repository[:tag][@digest]``; at least one of tag and digest is set by :func:`parse_reference`."""

    registry: str
    """``host[:port]``; Docker Hub is ``docker.io``."""
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    def same_repository(self, other: Reference) -> bool:
        return self.registry == other.registry and self.repository == other.repository

    def with_tag(self, tag: str) -> Reference:
        """The same repository under another tag, without a digest.

        Raises:
            PermanentError: ``invalid_reference``.
        """
        if not is_tag(tag):
            raise _invalid(f"not a valid tag (1 to 128 of A-Z a-z 0-9 _ . -): {tag[:150]!r}")
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        return replace(self, digest=digest)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        from_text = core_schema.no_info_after_validator_function(_from_text, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )


def parse_reference(text: str, *, default_tag: str | None = "latest") -> Reference:
    """Parse ``[registry/]repository[:tag][@digest]``.

    ``ubuntu`` → ``docker.io/library/ubuntu:latest``. ``repo:sha256:...`` (Harbor before 2.2) is a digest.

    Raises:
        PermanentError: code ``invalid_reference``.
    """
    if not _VISIBLE.fullmatch(text):
        raise _invalid(f"not an image reference: {text[:150]!r}")
    if _IDENTIFIER.fullmatch(text):
        raise _invalid(f"an image id, not a reference: {text}")
    if ":sha256:" in text and "@" not in text and (legacy := _LEGACY_DIGEST.fullmatch(text)):
        text = f"{legacy[1]}@{legacy[2]}"
    name, _, digest_text = text.partition("@")
    head, slash, rest = name.partition("/")
    if slash and is_host_to_people(head):
        registry, remainder = head, rest
    else:
        registry, remainder = DOCKER_HUB, name
    if registry in _DOCKER_HUB_NAMES:
        registry = DOCKER_HUB
    repository, colon, tag = remainder.partition(":")
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not is_registry(registry):
        raise _invalid(f"not a registry host: {registry[:150]!r}")
    if not is_repository(repository):
        raise _invalid(f"not a repository name (lower-case path): {repository[:150]!r}")
    if colon and not is_tag(tag):
        raise _invalid(f"not a valid tag: {tag[:150]!r}")
    if "@" in text and not digest_text:
        raise _invalid(f"empty digest: {text[:150]!r}")
    digest = Digest(digest_text) if digest_text else None
    if not tag and digest is None:
        tag = default_tag or ""
    return Reference(registry, repository, tag or None, digest)


def parse_written(text: str, *, default_tag: str | None = "latest") -> Reference:
    """What ``str`` of a reference wrote, or a sender who always names the registry: the first part is the registry's.

    A cluster's ``harbor/library/app`` is such a one; people who write that mean Docker Hub.

    Raises:
        PermanentError: code ``invalid_reference``.
    """
    head, slash, rest = text.partition("/")
    if not slash or is_host_to_people(head) or not is_registry(head):
        return parse_reference(text, default_tag=default_tag)
    return replace(parse_reference(f"any.host/{rest}", default_tag=default_tag), registry=head)


def is_host_to_people(head: str) -> bool:
    """Docker's rule for the first part of a name that has more."""
    return "." in head or ":" in head or head == "localhost" or head.lower() != head


def normal_registry(host: str) -> str:
    """Registries compare without case; Docker Hub has one name."""
    lower = host.lower()
    return DOCKER_HUB if lower in _DOCKER_HUB_NAMES else lower


@lru_cache(maxsize=_KNOWN)
def is_registry(text: str) -> bool:
    """Whether ``text`` is a ``host[:port]``."""
    return _HOST.fullmatch(text) is not None


@lru_cache(maxsize=_KNOWN)
def is_repository(text: str) -> bool:
    """Whether ``text`` can name a repository within a registry."""
    return len(text) <= 255 and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def _invalid(message: str) -> PermanentError:
    return PermanentError(message, code="invalid_reference")


@lru_cache(maxsize=_KNOWN)
def _from_text(text: str) -> Reference:
    """Of messages and events: one conversion names its source and target in each of them."""
    try:
        return parse_written(text)
    except PermanentError as error:
        raise ValueError(error.message) from error
