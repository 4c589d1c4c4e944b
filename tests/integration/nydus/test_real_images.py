"""Debian, Python and Node images: mounted by the kernel, equal to what umoci unpacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.testing.content import Repository
from drivers.testing.images import Tar, add_image
from tests.images.real_layers import RealLayers
from tests.integration.nydus.comparing import assert_same_tree


@pytest.mark.parametrize(("name", "entries"), [("debian", 5000), ("python", 6000), ("node", 7000)])
async def test_a_real_image_mounts_as_umoci_unpacks_it(
    name: str, entries: int, real_layers: RealLayers, tmp_path: Path
) -> None:
    """The upper layers stand on Debian; the last one changes, hides and replaces what is below."""
    layers = [real_layers.debian().read_bytes()]
    if name == "python":
        layers.append(real_layers.python().read_bytes())
    if name == "node":
        layers.append(real_layers.node().read_bytes())
    last = Tar().folder("etc").file("etc/hostname", b"changed\n").file("usr/share/.wh.doc").file("etc/apt/.wh..wh..opq")
    layers.append(last.hardlink("etc/release", "usr/lib/os-release").bytes())
    repository = Repository()
    assert await assert_same_tree(repository, add_image(repository, layers), tmp_path) > entries
