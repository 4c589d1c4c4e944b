from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.errors import PermanentError
from shared.oci.digest import Digest


@given(st.binary(max_size=100))
def test_the_digest_of_bytes_is_their_sha256(data: bytes) -> None:
    digest = Digest.of(data)
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert (digest.algorithm, digest.hex) == ("sha256", hashlib.sha256(data).hexdigest())
    assert digest.short == digest.hex[:12]


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha1:" + "a" * 40, "sha256:" + "a" * 64 + "\n"]
)
def test_what_cannot_be_verified_is_no_digest(text: str) -> None:
    with pytest.raises(PermanentError) as caught:
        Digest(text)
    assert caught.value.code == "invalid_digest"


def test_sha512_is_a_digest_too() -> None:
    assert Digest("sha512:" + "0" * 128).algorithm == "sha512"


def test_models_take_and_give_text() -> None:
    adapter = TypeAdapter(Digest)
    digest = Digest.of(b"")
    assert adapter.validate_python(str(digest)) == digest
    assert isinstance(adapter.validate_python(str(digest)), Digest)
    assert adapter.dump_json(digest) == f'"{digest}"'.encode()
    with pytest.raises(ValidationError, match="not a sha256"):
        adapter.validate_python("x")
