"""Content digests (OCI image spec, descriptor.md, section Digests)."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from shared.errors import PermanentError

_PATTERN = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")


class Digest(str):
    """``algorithm:hex`` with an algorithm that can be verified here (sha256, sha512).

    Raises:
        PermanentError: code ``invalid_digest``.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _PATTERN.fullmatch(text):
            raise PermanentError(f"not a sha256 or sha512 digest: {text[:100]!r}", code="invalid_digest")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``data``; ``algorithm`` is that of another digest to compare it with."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """Twelve hex digits, for people."""
        return self.hex[:12]

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            _from_text,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )


def _from_text(text: str) -> Digest:
    try:
        return Digest(text)
    except PermanentError as error:
        raise ValueError(error.message) from error
