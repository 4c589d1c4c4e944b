"""Secrets that nothing else could be mistaken for, and the search for them in every form that they may have been written in."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from urllib.parse import quote

USER = "robot"


class Canaries:
    """One canary a place, by the place's name; asking for the same place again gives the same canary."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def plant(self, place: str, *, plain: bool = False) -> str:
        """A new secret; with characters that URLs, regular expressions and JSON treat differently, unless ``plain``."""
        secret = f"CANARY.{place}.Q7" if plain else f"CANARY.{place}/+&=<Q7>"
        return self._known.setdefault(place, secret)

    def basic(self, place: str, *, plain: bool = False) -> str:
        """base64 of ``user:password`` with the place's canary as the password."""
        return base64.b64encode(f"{USER}:{self.plant(place, plain=plain)}".encode()).decode()

    def found(self, written: Mapping[str, str]) -> list[str]:
        """``where: place (form)`` of every canary in what was written, by where it was written."""
        return [
            f"{where}: {place} ({form})"
            for where, text in written.items()
            for place, secret in self._known.items()
            for form, needle in forms(secret)
            if needle in text
        ]


def forms(secret: str) -> Iterator[tuple[str, str]]:
    """The ways in which a secret may be written: as it is, in URLs, in JSON, in hexadecimal, and anywhere within base64."""
    yield "as it is", secret
    yield "in lower case", secret.lower()  # as host names are written
    yield "in a URL", quote(secret, safe="")
    yield "in a query", quote(secret)
    yield "in JSON", json.dumps(secret)[1:-1]
    yield "in HTML", secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    yield "in hexadecimal", secret.encode().hex()
    for before in range(3):  # where a secret begins within the encoded text decides which characters stand for it
        encoded = base64.b64encode(b"\0" * before + secret.encode())
        # The first and last characters depend on the neighbours.
        core = encoded[4:-4].decode() if before else encoded[:-4].decode()
        yield "in base64", core
        yield "in base64 for URLs", core.replace("+", "-").replace("/", "_")
