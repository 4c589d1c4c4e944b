"""``WWW-Authenticate`` challenges (RFC 9110, section 11.6.1; distribution's token authentication specification)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]*)(?=\s|,|$)")
_PARAMETER = re.compile(r'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*')
_MAXIMUM_HEADER = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    """Lower case."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Keys in lower case."""


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of all headers, in order; whatever is malformed ends its header."""
    found: list[Challenge] = []
    for header in headers:
        text, at = header[:_MAXIMUM_HEADER], 0
        while scheme := _SCHEME.match(text, at):
            at = scheme.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(text, at):
                quoted, plain = parameter[2], parameter[3]
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                parameters.setdefault(parameter[1].lower(), value)
                at = parameter.end()
                if text[at : at + 1] != ",":
                    break
                at += 1
            found.append(Challenge(scheme[1].lower(), parameters))
            while text[at : at + 1] in {",", " ", "\t"} and at < len(text):
                at += 1
    return found
