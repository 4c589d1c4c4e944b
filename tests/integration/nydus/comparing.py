"""Convert an image, mount the result, unpack the source with umoci, compare."""

from __future__ import annotations

from pathlib import Path

from drivers.nydus import NydusDriver
from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import as_source
from shared.oci.manifest import ImageManifest
from tests.images.trees import TIME, Facts, differences, tree_facts
from tests.integration.nydus.mounting import mounted_image
from tests.integration.nydus.umoci import unpack


async def convert(
    repository: Repository, image: ImageManifest, option: NydusOptions
) -> tuple[Repository, ImageManifest]:
    """The target repository and the manifest."""
    content = MemoryContent(repository)
    result = await NydusDriver().convert(as_source(image), content, option)
    assert isinstance(result.root, ImageManifest)
    return content.target_repository, result.root


async def assert_same_tree(
    repository: Repository, image: ImageManifest, tmp_path: Path, option: NydusOptions | None = None
) -> int:
    """Returns the number of entries compared."""
    target, converted = await convert(repository, image, option or NydusOptions())
    expected = tree_facts(unpack(repository, image, tmp_path / "umoci"))
    with mounted_image(target, converted, tmp_path / "nydus") as root:
        found = tree_facts(root)
    assert differences(_without_implied_times(expected, found), found) == []
    return len(expected)


def _without_implied_times(expected: Facts, found: Facts) -> Facts:
    """A directory that layers only imply has the time of the extraction in umoci's tree, and 0 in ours."""
    implied = {path for path, fact in found.items() if fact[0] == "drwxr-xr-x" and not fact[TIME]}
    return {path: (*fact[:TIME], 0, *fact[TIME + 1 :]) if path in implied else fact for path, fact in expected.items()}
