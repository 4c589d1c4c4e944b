"""Random changesets on top of each other: the kernel sees what umoci makes of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drivers.nydus.options import NydusOptions
from drivers.testing.content import Repository
from drivers.testing.images import MTIME, Tar, add_image
from tests.images.trees import TIME, Facts, differences, tree_facts
from tests.integration.nydus.comparing import convert
from tests.integration.nydus.mounting import mounted_image
from tests.integration.nydus.umoci import unpack

_KINDS = ("folder", "file", "file", "link", "fifo", "hard", "whiteout", "whiteout", "opaque")


class Changesets:
    """Layers that a diff of two trees could have: each path once, its directories before it, whiteouts of what is there."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._tree: dict[str, str] = {}
        """Kind by path, after all entries so far."""

    def layer(self) -> bytes:
        tar = Tar()
        mine: dict[str, str] = {}
        for _ in range(self._rng.randint(1, 12)):
            path = "/".join(self._rng.choices("abc", k=self._rng.randint(1, 3)))
            kind = self._rng.choice(_KINDS)
            if self._fits(path, kind, mine):
                self._add(tar, path, kind, mine)
        return tar.bytes()

    def _fits(self, path: str, kind: str, mine: dict[str, str]) -> bool:
        if kind in {"whiteout", "opaque"} and path not in self._tree:
            return False
        if kind == "opaque" and self._tree[path] != "folder":
            return False
        return path not in mine and all(mine.get(parent, "folder") == "folder" for parent in _parents(path))

    def _files(self, besides: str) -> list[str]:
        """What a hard link at ``besides`` may be one of: not what it replaces."""
        return sorted(
            path
            for path, kind in self._tree.items()
            if kind == "file" and path != besides and not path.startswith(f"{besides}/")
        )

    def _add(self, tar: Tar, path: str, kind: str, mine: dict[str, str]) -> None:
        for parent in _parents(path):
            if parent not in mine:
                self._put(tar, parent, "folder", mine)
        self._put(tar, path, kind, mine)

    def _put(self, tar: Tar, path: str, kind: str, mine: dict[str, str]) -> None:
        rng = self._rng
        folder, _, name = path.rpartition("/")
        files = self._files(path)
        if kind == "hard" and not files:
            kind = "file"
        at = MTIME + rng.randint(0, 9999)
        if kind in {"folder", "opaque"}:
            tar.folder(path, mode=rng.choice([0o700, 0o755, 0o1777]), uid=rng.choice([0, 70000]), mtime=at)
        if kind == "file":
            attributes = {"user.k": "v" * rng.randint(1, 30)} if rng.random() < 0.3 else {}
            size = rng.choice([0, 1, 4095, 4096, 4097, 70000])
            tar.file(path, bytes(rng.choices(b"ab", k=size)), mode=0o640, mtime=at, xattrs=attributes)
        elif kind == "link":
            tar.symlink(path, rng.choice(["a", "/b/c", "../a"]), mtime=at)
        elif kind == "fifo":
            tar.entry(path, b"6", mtime=at)
        elif kind == "hard":
            tar.hardlink(path, rng.choice(files))
        elif kind == "whiteout":
            tar.file(f"{folder}/.wh.{name}".lstrip("/"))
        elif kind == "opaque":
            tar.file(f"{path}/.wh..wh..opq")
        mine[path] = "folder" if kind == "opaque" else kind
        below = [other for other in self._tree if other.startswith(f"{path}/")]
        if mine[path] != "folder" or self._tree.get(path) != "folder" or kind == "opaque":
            for other in below:
                del self._tree[other]
        self._tree.pop(path, None)
        if kind != "whiteout":
            self._tree[path] = "file" if kind == "hard" else mine[path]


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def without_directory_times(facts: Facts) -> Facts:
    """umoci's own removals touch the directories that they are in."""
    return {
        path: (*fact[:TIME], 0, *fact[TIME + 1 :]) if str(fact[0]).startswith("d") else fact
        for path, fact in facts.items()
    }


@pytest.mark.parametrize("first", [0, 10, 20])
async def test_random_layers_are_applied_as_umoci_does(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 10):
        changesets = Changesets(seed)
        repository = Repository()
        image = add_image(repository, [changesets.layer() for _ in range(5)])
        folder = tmp_path / str(seed)
        target, converted = await convert(repository, image, NydusOptions())
        expected = without_directory_times(tree_facts(unpack(repository, image, folder / "umoci")))
        with mounted_image(target, converted, folder / "nydus") as root:
            found = without_directory_times(tree_facts(root))
        assert (seed, differences(expected, found)) == (seed, [])
