from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PermanentError
from shared.oci import media_types
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest, parse_manifest
from tests.unit.shared.oci.strategies import hostile_descriptors, json_values

CONFIG = {"mediaType": media_types.OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
LAYER = {"mediaType": media_types.OCI_LAYER_GZIP, "digest": str(Digest.of(b"layer")), "size": 5}
IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": media_types.OCI_MANIFEST,
    "config": CONFIG,
    "layers": [LAYER, LAYER],
    "annotations": {"a": "b"},
}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [LAYER]}


def test_an_image_manifest_is_read_beside_its_raw_bytes() -> None:
    raw = orjson.dumps(IMAGE, option=orjson.OPT_INDENT_2)
    manifest = parse_manifest(raw)
    assert isinstance(manifest, ImageManifest)
    assert manifest.raw == raw
    assert manifest.digest == Digest.of(raw)
    assert manifest.descriptor.size == len(raw)
    assert manifest.config.digest == CONFIG["digest"]
    assert [layer.digest for layer in manifest.layers] == [LAYER["digest"]] * 2
    assert manifest.annotations == {"a": "b"}
    assert manifest.subject is None
    assert manifest.artifact_type is None


def test_an_index_is_read() -> None:
    index = parse_manifest(orjson.dumps(INDEX | {"subject": CONFIG, "artifactType": "a/b"}))
    assert isinstance(index, Index)
    assert index.manifests[0].digest == LAYER["digest"]
    assert index.subject is not None
    assert index.artifact_type == "a/b"
    assert index.annotations == {}


@pytest.mark.parametrize(
    ("media_type", "own", "expected"),
    [
        (media_types.DOCKER_MANIFEST, None, media_types.DOCKER_MANIFEST),
        (media_types.DOCKER_MANIFEST + "; charset=utf-8", None, media_types.DOCKER_MANIFEST),
        ("application/octet-stream", media_types.DOCKER_MANIFEST, media_types.DOCKER_MANIFEST),
        (None, None, media_types.OCI_MANIFEST),
        ("application/json", None, media_types.OCI_MANIFEST),
        (None, media_types.OCI_MANIFEST, media_types.OCI_MANIFEST),
    ],
)
def test_the_media_type_is_the_answers_else_the_bodys(media_type: str | None, own: str | None, expected: str) -> None:
    data = {key: value for key, value in IMAGE.items() if key != "mediaType"} | ({"mediaType": own} if own else {})
    assert parse_manifest(orjson.dumps(data), media_type).media_type == expected


def test_an_index_without_a_media_type_is_known_by_its_list() -> None:
    assert isinstance(parse_manifest(orjson.dumps({"schemaVersion": 2, "manifests": []})), Index)


@pytest.mark.parametrize(
    ("raw", "media_type", "code"),
    [
        (b"", None, "invalid_manifest"),
        (b"{", None, "invalid_manifest"),
        (b"[]", None, "invalid_manifest"),
        (b"{}", None, "invalid_manifest"),
        (b'{"layers": []}', None, "invalid_manifest"),
        (orjson.dumps(IMAGE | {"layers": {}}), None, "invalid_manifest"),
        (orjson.dumps(IMAGE | {"subject": 1}), None, "invalid_manifest"),
        (orjson.dumps(IMAGE | {"mediaType": "application/x"}), None, "unsupported_media_type"),
        (orjson.dumps(IMAGE), media_types.OCI_INDEX, "invalid_manifest"),
        (orjson.dumps(IMAGE | {"manifests": []}), None, "invalid_manifest"),
        (orjson.dumps({"manifests": [], "config": CONFIG}), None, "invalid_manifest"),
        (b"[" * 100_000, None, "invalid_manifest"),
        (b'{"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}', None, "unsupported_media_type"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "application/json", "unsupported_media_type"),
    ],
)
def test_another_shape_is_refused_with_its_reason(raw: bytes, media_type: str | None, code: str) -> None:
    with pytest.raises(PermanentError) as caught:
        parse_manifest(raw, media_type)
    assert caught.value.code == code


@pytest.mark.parametrize("data", [IMAGE | {"layers": None}, {"schemaVersion": 2, "manifests": None}])
def test_a_list_that_is_null_is_empty(data: dict[str, Any]) -> None:
    manifest = parse_manifest(orjson.dumps(data))
    assert (manifest.layers if isinstance(manifest, ImageManifest) else manifest.manifests) == ()


def test_annotations_that_are_no_object_are_none() -> None:
    assert parse_manifest(orjson.dumps(IMAGE | {"annotations": [1]})).annotations == {}


def test_encoding_is_compact_and_keeps_the_order() -> None:
    manifest = encode_manifest(IMAGE)
    assert manifest.raw == orjson.dumps(IMAGE)
    assert encode_manifest(manifest.data).digest == manifest.digest


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "schemaVersion": json_values,
            "mediaType": json_values | st.sampled_from(sorted(media_types.MANIFESTS)),
            "config": json_values | hostile_descriptors,
            "layers": json_values | st.lists(hostile_descriptors, max_size=3),
            "manifests": json_values | st.lists(hostile_descriptors, max_size=3),
            "annotations": json_values,
            "subject": json_values | hostile_descriptors,
            "artifactType": json_values,
        },
    )
    | json_values,
    st.none() | st.sampled_from(sorted(media_types.MANIFESTS)) | st.text(max_size=20),
)
def test_hostile_manifests_parse_or_are_refused_and_nothing_else(data: Any, media_type: str | None) -> None:
    try:
        raw = orjson.dumps(data)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        raw = str(data).replace("'", '"').encode(errors="replace")
    try:
        manifest = parse_manifest(raw, media_type)
    except PermanentError:
        return
    assert isinstance(manifest.annotations, dict)
    assert manifest.descriptor.size == len(raw)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_manifest_are_refused(raw: bytes) -> None:
    with pytest.raises(PermanentError):
        parse_manifest(raw)
