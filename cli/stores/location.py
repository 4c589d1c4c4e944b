"""Where an image is, as people write it: ``registry/repository:tag``, ``oci:PATH[:TAG]``, ``docker-archive:FILE[:NAME]``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.errors import PermanentError
from shared.oci.reference import Reference, is_host_to_people, is_tag, parse_reference, parse_written

Kind = Literal["registry", "oci", "docker-archive"]
LOCAL = "localhost"
"""The registry in references to images on disk; nothing ever contacts it."""


@dataclass(frozen=True, slots=True)
class Location:
    """One image's place."""

    kind: Kind
    reference: Reference
    """For an image on disk a stand-in: its tag stands for ``name``."""
    path: Path = Path()
    """Nothing for a registry."""
    name: str = ""
    """The image's name in the layout or archive; empty: the only one."""

    def __str__(self) -> str:
        if self.kind == "registry":
            return str(self.reference)
        return f"{self.kind}:{self.path}" + (f":{self.name}" if self.name else "")


def parse_location(text: str, known: Callable[[str], bool] = lambda _name: False) -> Location:
    """Read one location.

    Args:
        text: as people write it.
        known: whether there is a registry of this name; asked for first parts that are Docker Hub's without one.

    Raises:
        PermanentError: ``invalid_reference``.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme in {"oci", "docker-archive"}:
        # A path may not hold a colon, as with other tools of the field; everything behind the first one is the name.
        path, _, name = rest.partition(":")
        if not path:
            raise PermanentError(f"{scheme}: wants a path behind it: {text!r}", code="invalid_reference")
        kind: Kind = "oci" if scheme == "oci" else "docker-archive"
        return Location(kind, _stand_in(name), Path(path), name)
    if colon and scheme in {"docker-daemon", "containers-storage", "dir", "oci-archive", "docker"}:
        hint = "leave docker:// out" if scheme == "docker" else "use a registry reference, oci: or docker-archive:"
        raise PermanentError(f"{scheme}: is not supported: {hint}", code="invalid_reference")
    first, slash, _ = text.partition("/")
    parse = parse_written if slash and not is_host_to_people(first) and known(first) else parse_reference
    return Location("registry", parse(text))


def _stand_in(name: str) -> Reference:
    tag = name.rpartition(":")[2] if name else "latest"
    return Reference(LOCAL, "image", tag if is_tag(tag) else "latest")
