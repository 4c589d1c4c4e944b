"""References are parsed as Docker's tools do, and what is accepted is safe in a URL and a header."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from yarl import URL

from shared.errors import PermanentError
from shared.oci.digest import Digest
from shared.oci.reference import Reference, is_registry, is_repository, is_tag, parse_reference, parse_written
from tests.unit.shared.oci.strategies import digests, registries, repositories, tags

HEX = "a" * 64
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("index.docker.io/user/app:1", "docker.io/user/app:1"),
        ("registry-1.docker.io/library/ubuntu:1", "docker.io/library/ubuntu:1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("Registry/app", "Registry/app:latest"),  # upper case: cannot be a path, so it is a host
        ("harbor.example.com/project/a/b/c:v1", "harbor.example.com/project/a/b/c:v1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}"),
        (f"h.io/p/app:1@{DIGEST}", f"h.io/p/app:1@{DIGEST}"),
        (f"h.io/p/app:{DIGEST}", f"h.io/p/app@{DIGEST}"),  # Harbor before 2.2
        ("h.io/a__b/c--d.e_f", "h.io/a__b/c--d.e_f:latest"),
        ("app:5000", "docker.io/library/app:5000"),  # a tag, without a slash no host
    ],
)
def test_a_reference_is_normalised_like_dockers(text: str, expected: str) -> None:
    assert str(parse_reference(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UPPER",
        "a//b",
        "/a",
        "a/",
        "a:",
        "a:b:c",
        "a@",
        "a@sha256:short",
        "a@md5:" + "a" * 32,
        f"a@{DIGEST}@{DIGEST}",
        "host.io/../etc",
        "host.io/a/./b",
        "host.io/a b",
        "host.io/a\r\nX: y",
        "host.io/a?x=1",
        "host.io/a#f",
        "host.io/a%2fb",
        "user@host.io/a",
        "ho_st.io:1/a",
        "-host.io/a",
        "host.io:port/a",
        "host.io:123456/a",
        "host.io/a:-tag",
        "host.io/a:" + "t" * 129,
        "host.io/" + "a" * 256,
        "h.io/" + "a/" * 600 + "a",
        "a___b",
        "é",
        HEX,
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(PermanentError) as caught:
        parse_reference(text)
    assert caught.value.code in {"invalid_reference", "invalid_digest"}


def test_without_a_default_tag_none_is_added() -> None:
    reference = parse_reference("h.io/a", default_tag=None)
    assert (reference.tag, reference.digest) == (None, None)
    assert str(reference) == "h.io/a"


def test_a_tag_replaces_the_digest_and_a_digest_joins_the_tag() -> None:
    reference = parse_reference(f"h.io/a@{DIGEST}")
    assert str(reference.with_tag("x_esgz")) == "h.io/a:x_esgz"
    assert str(reference.with_tag("x").with_digest(Digest(DIGEST))) == f"h.io/a:x@{DIGEST}"
    with pytest.raises(PermanentError, match="not a valid tag"):
        reference.with_tag("x\n")


def test_names_are_judged_whole() -> None:
    assert is_tag("latest")
    assert not is_tag("latest\n")
    assert is_registry("[::1]:5000")
    assert not is_registry("h.io\n")
    assert is_repository("a/b")
    assert not is_repository("a/b\n")


def test_models_take_and_give_text() -> None:
    adapter = TypeAdapter(Reference)
    reference = adapter.validate_python("ubuntu")
    assert reference == adapter.validate_python(reference)
    assert adapter.dump_json(reference) == b'"docker.io/library/ubuntu:latest"'
    assert adapter.validate_json(b'"ubuntu"') == reference
    with pytest.raises(ValidationError, match="repository name"):
        adapter.validate_python("h.io/A")


@given(registries, repositories, st.none() | tags, st.none() | digests)
def test_every_reference_survives_text(registry: str, repository: str, tag: str | None, digest: Digest | None) -> None:
    if tag is None and digest is None:
        tag = "latest"
    reference = Reference(registry, repository, tag, digest)
    assert parse_reference(str(reference)) == reference


@given(registries | st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True), repositories, st.none() | tags, digests)
def test_a_message_brings_every_reference_whole(
    registry: str, repository: str, tag: str | None, digest: Digest
) -> None:
    """A registry's name without a dot too, as clusters have them."""
    adapter = TypeAdapter(Reference)
    reference = Reference(registry, repository, tag, digest)
    assert adapter.validate_json(adapter.dump_json(reference)) == reference
    assert parse_written(str(reference)) == reference


@given(st.text(max_size=60) | st.text("ab./:@-_%\r\n?#[]09", max_size=60))
def test_whatever_is_accepted_is_safe_in_a_url(text: str) -> None:
    try:
        reference = parse_reference(text)
    except PermanentError:
        return
    assert re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", reference.registry)
    path = f"/v2/{reference.repository}/manifests/{reference.digest or reference.tag}"
    assert re.fullmatch(r"/v2/[a-z0-9._/-]+/manifests/[A-Za-z0-9_.:-]+", path)
    assert "/../" not in path
    assert "/./" not in path
    assert URL(f"http://h{path}", encoded=True).raw_path_qs == path == URL(f"http://h{path}").raw_path_qs
    assert parse_reference(str(reference)) == reference
