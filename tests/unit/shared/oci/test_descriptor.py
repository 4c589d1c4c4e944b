from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PermanentError
from shared.oci.descriptor import Descriptor, Platform
from shared.oci.digest import Digest
from tests.unit.shared.oci.strategies import hostile_descriptors, json_values

LAYER: dict[str, Any] = {
    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
    "digest": str(Digest.of(b"layer")),
    "size": 5,
}


def test_every_key_survives_a_round_trip() -> None:
    data = {
        **LAYER,
        "annotations": {"a": "b"},
        "platform": {"architecture": "arm64", "os": "linux", "variant": "v8", "os.features": ["x"]},
        "artifactType": "application/x",
        "urls": ["https://example.com"],
        "data": "aGk=",
    }
    assert Descriptor.from_json(data).to_json() == data
    assert Descriptor.from_json(LAYER).to_json() == LAYER
    without_variant = LAYER | {"platform": {"architecture": "amd64", "os": "linux"}}
    assert Descriptor.from_json(without_variant).to_json() == without_variant


def test_annotations_are_added_to_a_copy() -> None:
    plain = Descriptor.from_json(LAYER)
    assert plain.with_annotations(a="b").annotations == {"a": "b"}
    assert plain.annotations == {}
    assert hash(plain) == hash(plain.with_annotations(a="b"))
    assert plain != plain.with_annotations(a="b")


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": 1},
        {"digest": None},
        {"digest": "sha256:x"},
        {"size": -1},
        {"size": True},
        {"size": 1.5},
        {"size": "5"},
        {"size": 1 << 63},
        {"annotations": [1]},
        {"platform": "linux/amd64"},
    ],
)
def test_a_descriptor_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PermanentError) as caught:
        Descriptor.from_json({**LAYER, **change})
    assert caught.value.code in {"invalid_manifest", "invalid_digest"}


def test_what_is_no_object_is_no_descriptor() -> None:
    with pytest.raises(PermanentError, match="not an object"):
        Descriptor.from_json([LAYER])


def test_an_artifact_type_that_is_no_text_is_left_out() -> None:
    assert Descriptor.from_json({**LAYER, "artifactType": {}}).artifact_type is None


@given(hostile_descriptors | json_values)
def test_hostile_descriptors_parse_or_are_refused_and_nothing_else(data: Any) -> None:
    try:
        descriptor = Descriptor.from_json(data)
    except PermanentError:
        return
    assert Descriptor.from_json(descriptor.to_json()) == descriptor


@pytest.mark.parametrize(
    ("text", "wanted", "matches"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64/v8", "linux/arm64/v8", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm", "linux/arm/v7", False),
        ("windows/amd64", "linux/amd64", False),
        ("linux/386", "linux/amd64", False),
    ],
)
def test_a_selection_without_variant_takes_every_variant(text: str, wanted: str, matches: bool) -> None:
    platform = Platform.parse(text)
    assert str(platform) == text
    assert platform.matches(Platform.parse(wanted)) is matches


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux//v8"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a platform"):
        Platform.parse(text)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=5))
def test_a_hostile_platform_is_only_text(data: dict[str, Any]) -> None:
    platform = Platform.from_json(data)
    assert isinstance(platform.os, str)
    assert isinstance(str(platform), str)
