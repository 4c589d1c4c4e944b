"""Convert an image, mount the result, unpack the source with umoci, compare."""

from __future__ import annotations

from pathlib import Path

from drivers.nydus import NydusDriver
from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import as_source
from shared.oci.manifest import ImageManifest
from tests.images.trees import differences, tree_facts
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
    assert differences(expected, found) == []
    return len(expected)
