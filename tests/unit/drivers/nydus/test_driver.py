"""The driver itself: options, fingerprints, health."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from drivers.nydus import NydusDriver
from drivers.nydus.options import NydusOptions
from shared.errors import TransientError


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"fs_version": "5"}, "fs_version 5"),
        ({"fs_version": 5}, "fs_version 5"),
        ({"oci_ref": True, "chunk_size": 0x10000}, "chunk_size has no meaning with oci_ref"),
        ({"oci_ref": True, "compressor": "none"}, "compressor has no meaning with oci_ref"),
        ({"oci_ref": True, "builder_path": "/x"}, "builder_path has no meaning with oci_ref"),
        ({"chunk_size": 5000}, "power of two"),
        ({"chunk_size": 1 << 25}, "power of two"),
        ({"prefetch_patterns": ["etc"]}, "absolute path"),
        ({"compressor": "gzip"}, "compressor"),
        ({"builder_path": "/x", "digester": "sha256"}, "digester"),
        ({"with_referrer": True, "multi_platform": True}, "exclude each other"),
        ({"build_cache_tag": "a/b"}, "build_cache_tag"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_options_that_cannot_be_met_are_refused_with_the_reason(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NydusOptions.model_validate(option)


def test_the_fingerprint_changes_with_what_changes_the_bytes() -> None:
    driver = NydusDriver()
    base = driver.fingerprint(NydusOptions())
    assert driver.fingerprint(NydusOptions(work_dir="/var/tmp", build_cache_tag="x", oci_ref=False)) == base
    for option in (
        NydusOptions(compressor="none"),
        NydusOptions(chunk_size=0x10000),
        NydusOptions(digester="sha256"),
        NydusOptions(compression_level=5),
        NydusOptions(multi_platform=True),
        NydusOptions(with_referrer=True),
        NydusOptions(share_chunks=False),
        NydusOptions(oci_ref=True),
        NydusOptions(prefetch_patterns=["/etc"]),
        NydusOptions(builder_path="/usr/bin/nydus-image"),
    ):
        assert driver.fingerprint(option) != base


def test_another_version_of_the_merge_leaves_the_layer_cache() -> None:
    class Later(NydusDriver):
        version = "later"

    option = NydusOptions()
    assert Later().fingerprint(option) != NydusDriver().fingerprint(option)
    assert Later().layer_fingerprint(option) == NydusDriver().layer_fingerprint(option)


async def test_the_native_builder_is_always_healthy() -> None:
    await NydusDriver().check_health()
    await NydusDriver().check_health(NydusOptions())


async def test_a_missing_external_builder_is_not() -> None:
    with pytest.raises(TransientError) as caught:
        await NydusDriver().check_health(NydusOptions(builder_path="/nowhere/nydus-image"))
    assert caught.value.code == "builder_unavailable"
    with pytest.raises(TransientError) as caught:
        await NydusDriver().check_health(NydusOptions(builder_path="/bin/false"))
    assert caught.value.code == "builder_unavailable"
    with pytest.raises(TransientError) as caught:
        await NydusDriver().check_health(NydusOptions(builder_path="/bin/true", work_dir="/nowhere"))
    assert caught.value.code == "work_dir_unwritable"
