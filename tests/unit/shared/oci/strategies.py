"""Hypothesis strategies of references, digests and JSON that nobody would write."""

from __future__ import annotations

from hypothesis import strategies as st

from shared.oci.digest import Digest

HEX = "0123456789abcdef"

digests = st.one_of(
    st.text(HEX, min_size=64, max_size=64).map(lambda text: Digest(f"sha256:{text}")),
    st.text(HEX, min_size=128, max_size=128).map(lambda text: Digest(f"sha512:{text}")),
)
_word = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
_component = st.builds(
    lambda first, rest: first + "".join(separator + word for separator, word in rest),
    _word,
    st.lists(st.tuples(st.sampled_from([".", "_", "__", "-", "--"]), _word), max_size=2),
)
repositories = st.lists(_component, min_size=1, max_size=4).map("/".join)
registries = st.one_of(
    st.builds(lambda a, b, port: f"{a}.{b}:{port}", _word, _word, st.integers(1, 65535)),
    st.builds(lambda a, b: f"{a}.{b}", _word, _word),
    st.just("localhost"),
    st.builds(lambda port: f"[::1]:{port}", st.integers(1, 65535)),
)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
hostile_descriptors = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": json_values | st.just("application/vnd.oci.image.layer.v1.tar+gzip"),
        "digest": json_values | digests.map(str),
        "size": json_values | st.integers(0, 2**64),
        "annotations": json_values,
        "platform": json_values | st.dictionaries(st.sampled_from(["os", "architecture", "variant", "x"]), json_values),
        "artifactType": json_values,
        "urls": json_values,
    },
)
