from __future__ import annotations

import pytest

from shared.oci import media_types


@pytest.mark.parametrize(
    ("docker", "oci"),
    [
        (media_types.DOCKER_MANIFEST, media_types.OCI_MANIFEST),
        (media_types.DOCKER_MANIFEST_LIST, media_types.OCI_INDEX),
        (media_types.DOCKER_CONFIG, media_types.OCI_CONFIG),
        (media_types.DOCKER_LAYER, media_types.OCI_LAYER),
        (media_types.DOCKER_LAYER_GZIP, media_types.OCI_LAYER_GZIP),
        (media_types.DOCKER_LAYER_ZSTD, media_types.OCI_LAYER_ZSTD),
        (media_types.OCI_LAYER_GZIP, media_types.OCI_LAYER_GZIP),
        ("application/x", "application/x"),
    ],
)
def test_docker_types_have_an_oci_equivalent(docker: str, oci: str) -> None:
    assert media_types.to_oci(docker) == oci


def test_foreign_layers_are_known() -> None:
    assert media_types.is_foreign_layer(media_types.DOCKER_FOREIGN_LAYER)
    assert media_types.is_foreign_layer("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
    assert not media_types.is_foreign_layer(media_types.OCI_LAYER_GZIP)


@pytest.mark.parametrize("media_type", sorted(media_types.MANIFESTS))
def test_images_and_indexes_are_manifests(media_type: str) -> None:
    assert media_types.is_manifest(media_type)
    assert media_types.is_manifest(media_types.to_oci(media_type))


@pytest.mark.parametrize("media_type", [media_types.OCI_CONFIG, media_types.OCI_LAYER_GZIP, "application/json", ""])
def test_nothing_else_is_a_manifest(media_type: str) -> None:
    assert not media_types.is_manifest(media_type)
