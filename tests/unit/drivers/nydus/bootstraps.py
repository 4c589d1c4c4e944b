"""What a converted image's last layer holds."""

from __future__ import annotations

import io
import tarfile

from drivers.nydus.media import BOOTSTRAP_FILE
from drivers.testing.content import Repository
from shared.oci.manifest import ImageManifest


def bootstrap_of(repository: Repository, image: ImageManifest) -> bytes:
    """The merged bootstrap of a converted image."""
    with tarfile.open(fileobj=io.BytesIO(repository.blobs[image.layers[-1].digest]), mode="r:gz") as tar:
        member = tar.extractfile(BOOTSTRAP_FILE)
        assert member is not None
        return member.read()
