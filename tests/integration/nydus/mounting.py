"""From a converted image in a repository to a mounted tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drivers.nydus.rafs_v6.decode import validate_bootstrap
from drivers.nydus.rafs_v6.layout import Compressor
from drivers.testing.content import Repository
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest
from tests.integration.nydus.erofs import check_with_fsck, expand_blob, mounted
from tests.unit.drivers.nydus.bootstraps import bootstrap_of


def expand_image(repository: Repository, image: ImageManifest, folder: Path) -> tuple[Path, list[Path]]:
    """The bootstrap's file and the expanded blobs, in the blob table's order."""
    folder.mkdir(parents=True, exist_ok=True)
    boot = folder / "image.boot"
    boot.write_bytes(bootstrap_of(repository, image))
    devices = []
    for blob in validate_bootstrap(boot.read_bytes()).blobs:
        device = folder / blob.id
        expand_blob(repository.blobs[Digest(f"sha256:{blob.id}")], Compressor(blob.compressor), device)
        devices.append(device)
    return boot, devices


@contextmanager
def mounted_image(repository: Repository, image: ImageManifest, folder: Path) -> Iterator[Path]:
    """Checked with fsck.erofs, then mounted by the kernel."""
    boot, devices = expand_image(repository, image, folder)
    check_with_fsck(boot, devices)
    with mounted(boot, devices, folder / "mount") as root:
        yield root
