"""The streaming tar parser against Python's tarfile, and against damaged archives."""

from __future__ import annotations

import contextlib
import io
import tarfile
from dataclasses import replace
from posixpath import normpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.limits import LayerLimits
from drivers.tar import TarEntry, TarParser
from drivers.tar.entry import clean
from shared.errors import CorruptLayerError, LimitExceededError
from tests.unit.drivers.layer_blobs import member, tar

KINDS = {
    tarfile.REGTYPE: b"0",
    tarfile.LNKTYPE: b"1",
    tarfile.SYMTYPE: b"2",
    tarfile.CHRTYPE: b"3",
    tarfile.BLKTYPE: b"4",
    tarfile.DIRTYPE: b"5",
    tarfile.FIFOTYPE: b"6",
}
paths = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60), min_size=1, max_size=6
).map("/".join)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(st.sampled_from(list(KINDS)))
    data = draw(st.binary(max_size=3000)) if kind == tarfile.REGTYPE else b""
    return member(
        draw(paths),
        data,
        kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 0o7777777)),
        gid=draw(st.integers(0, 0o7777777)),
        mtime=draw(st.integers(0, 0o77777777777)),
        uname=draw(st.text("abc", max_size=8)),
        linkname=draw(paths) if kind in {tarfile.LNKTYPE, tarfile.SYMTYPE} else "",
        devmajor=draw(st.integers(0, 4000)),
        devminor=draw(st.integers(0, 4000)),
    )


def parse(blob: bytes, piece: int = 1 << 20, limits: LayerLimits | None = None) -> list[tuple[TarEntry, bytes]]:
    parser = TarParser(limits or LayerLimits())
    found: list[tuple[TarEntry, bytearray]] = []
    for start in range(0, len(blob), piece):
        for event in parser.feed(blob[start : start + piece]):
            if isinstance(event, TarEntry):
                found.append((event, bytearray()))
            else:
                found[-1][1].extend(event)
    parser.finish()
    return [(entry, bytes(data)) for entry, data in found]


@given(
    st.lists(members(), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(min_value=1, max_value=5000),
)
def test_sees_what_tarfile_sees_however_the_stream_is_cut(
    written: list[tuple[tarfile.TarInfo, bytes]], archive_format: int, piece: int
) -> None:
    blob = tar(written, archive_format)
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        expected = archive.getmembers()
    found = parse(blob, piece)
    assert len(found) == len(expected)
    for (entry, data), info, (_, payload) in zip(found, expected, written, strict=True):
        # tarfile strips the slash that says "directory".
        assert entry.name.rstrip("/") == info.name.rstrip("/")
        assert (entry.type, entry.link) == (KINDS[info.type], info.linkname)
        assert (entry.mode, entry.uid, entry.gid, entry.user) == (info.mode, info.uid, info.gid, info.uname)
        assert (entry.mtime, entry.size) == (info.mtime, info.size)
        if info.type in {tarfile.CHRTYPE, tarfile.BLKTYPE}:
            assert (entry.major, entry.minor) == (info.devmajor, info.devminor)
        assert data == payload
    assert b"".join(entry.raw + data + bytes(-len(data) % 512) for entry, data in found) == blob.rstrip(b"\0").ljust(
        sum(len(entry.raw) + len(data) + -len(data) % 512 for entry, data in found), b"\0"
    )


@pytest.mark.parametrize(("uid", "mtime"), [(1 << 24, 1 << 34), (1 << 40, -5), ((1 << 55) - 1, 0)])
def test_base_256_numbers(uid: int, mtime: int) -> None:
    [(entry, _)] = parse(tar([member("big", uid=uid, mtime=mtime)], tarfile.GNU_FORMAT))
    assert (entry.uid, entry.mtime) == (uid, mtime)


def test_v7_header_without_magic_and_its_trailing_slash_for_directories() -> None:
    block = bytearray(tar([member("old/", kind=tarfile.AREGTYPE)], tarfile.USTAR_FORMAT)[:512])
    block[257:512] = bytes(255)
    block[156] = 0
    [(entry, _)] = parse(with_checksum(block) + bytes(1024))
    assert (entry.name, entry.type, entry.user) == ("old/", b"5", "")


@pytest.mark.parametrize("version", [b"00", b"\0\0", b"  "])
def test_ustar_prefix_is_joined_whatever_the_version(version: bytes) -> None:
    name = "d" * 90 + "/" + "e" * 90
    block = bytearray(tar([member(name)], tarfile.USTAR_FORMAT)[:512])
    block[263:265] = version
    [(entry, _)] = parse(with_checksum(block) + bytes(1024))
    assert entry.name == name


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        (b"var/lib/docker", "var/lib/docker/a"),
        (b"14524770400\0" + b"14524770400\0", "a"),
        (b"14524770400\0" + b"none", "14524770400/a"),
        (b"caf\xc3\xa9/latte", "a"),
    ],
)
def test_old_go_put_the_beginning_of_a_name_where_gnu_has_times(prefix: bytes, name: str) -> None:
    block = bytearray(tar([member("a")], tarfile.GNU_FORMAT)[:512])
    block[345 : 345 + len(prefix)] = prefix
    [(entry, _)] = parse(with_checksum(block) + bytes(1024))
    assert entry.name == name


def test_a_file_without_a_type_is_one_by_its_whole_name() -> None:
    """The header alone has the beginning of it, which may end in a slash."""
    name = "d" * 99 + "/file"
    blob = bytearray(tar([member(name, b"content")], tarfile.GNU_FORMAT))
    block = blob[1024:1536]
    assert block[:100].endswith(b"/")
    block[156] = 0
    blob[1024:1536] = with_checksum(block)
    [(entry, data)] = parse(bytes(blob))
    assert (entry.name, entry.type, data) == (name, b"0", b"content")


def test_the_name_of_a_sparse_file_is_none_of_another() -> None:
    info, data = member("a", b"x")
    info.pax_headers = {"GNU.sparse.name": "other"}
    [(entry, _)] = parse(tar([(info, data)], tarfile.PAX_FORMAT))
    assert entry.name == "a"


def test_signed_checksums_of_old_writers_are_taken() -> None:
    block = bytearray(tar([member("caf\u00e9")], tarfile.GNU_FORMAT)[:512])
    block[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % signed
    [(entry, _)] = parse(bytes(block) + bytes(1024))
    assert entry.name == "caf\u00e9"


def test_pax_records_override_the_header_and_carry_xattrs() -> None:
    headers = {
        "path": "ü" * 120,
        "uid": "3000000000",
        "gid": "7",
        "mtime": "-1.25",
        "uname": "someone",
        "SCHILY.xattr.user.k": "v=\nw",
        "comment": "ignored",
    }
    [(entry, _)] = parse(tar([member("x", pax_headers=headers)]))
    assert (entry.name, entry.uid, entry.gid, entry.user) == ("ü" * 120, 3_000_000_000, 7, "someone")
    assert (entry.mtime, entry.mtime_nsec) == (-2, 750_000_000)
    assert entry.xattrs == {"user.k": b"v=\nw"}


def test_pax_size_rules_over_the_header() -> None:
    record = b"13 size=1000\n"
    pax = with_checksum(bytearray(tar([member("pax", record, kind=b"x")], tarfile.USTAR_FORMAT)[:512]))
    header = with_checksum(bytearray(tar([member("real")], tarfile.USTAR_FORMAT)[:512]))
    [(entry, data)] = parse(pax + record.ljust(512, b"\0") + header + b"d" * 1000 + bytes(24 + 1024))
    assert (entry.name, entry.size, data) == ("real", 1000, b"d" * 1000)


def test_names_that_are_not_utf_8_keep_their_bytes() -> None:
    [(entry, _)] = parse(tar([member(b"\xff\xfe".decode("utf-8", "surrogateescape"))], tarfile.GNU_FORMAT))
    assert entry.name.encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_a_global_header_is_an_entry_of_its_own_that_changes_nothing() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "77"}) as archive:
        archive.addfile(*member("a"))  # type: ignore[arg-type]
    (head, _), (entry, _) = parse(out.getvalue())
    assert (head.type, entry.name, entry.uid) == (b"g", "a", 0)
    assert b"uid=77" in head.raw


def test_records_before_a_global_header_are_lost_with_it() -> None:
    """As Go has it, which the runtimes read with; their bytes are not."""
    long_name = tar([member("n" * 300)], tarfile.GNU_FORMAT)[:1024]
    blob = tar([member("a", pax_headers={"k": "v"})], tarfile.PAX_FORMAT)
    header = bytearray(blob[:512])
    header[156:157] = b"g"
    (head, _), (entry, _) = parse(long_name + with_checksum(header) + blob[512:])
    assert (head.type, head.offset, entry.name) == (b"g", 0, "a")
    assert head.raw.startswith(long_name)


def test_what_follows_the_end_mark_is_passed_over_and_a_missing_mark_is_let_pass() -> None:
    blob = tar([member("a", b"1")])
    assert [entry.name for entry, _ in parse(blob + b"garbage" * 100)] == ["a"]
    assert [entry.name for entry, _ in parse(blob[:1024])] == ["a"]
    assert parse(b"") == []


@pytest.mark.parametrize("length", [1, 511, 513, 1023])
def test_a_cut_archive_is_corrupt_and_says_where(length: int) -> None:
    with pytest.raises(CorruptLayerError, match=f"cut at byte {length}"):
        parse(tar([member("a", b"1")])[:length])


def test_extension_records_without_their_entry_are_corrupt() -> None:
    blob = tar([member("n" * 300)], tarfile.GNU_FORMAT)
    with pytest.raises(CorruptLayerError, match="cut"):
        parse(blob[:1024])
    with pytest.raises(CorruptLayerError, match="ends after an extension"):
        parse(blob[:1024] + bytes(1024))


@pytest.mark.parametrize("at", [0, 100, 148, 300])
def test_a_flipped_bit_in_a_header_is_corrupt(at: int) -> None:
    blob = bytearray(tar([member("name", b"1")]))
    blob[at] ^= 1
    with pytest.raises(CorruptLayerError, match="no tar header at byte 0"):
        parse(bytes(blob))


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (slice(124, 136), b"\xff" * 12, "negative size"),
        (slice(124, 136), b"-0000000001\0", "size that is no number"),
        (slice(124, 136), b"12345xyz\0\0\0\0", "size that is no number"),
        (slice(108, 116), b"1_0\0\0\0\0\0", "uid that is no number"),
        (slice(100, 108), b"0o7\0\0\0\0\0", "mode that is no number"),
        (slice(136, 148), b"\x80" + b"\xff" * 11, "mtime beyond 64 bits"),
    ],
)
def test_absurd_numbers_are_corrupt(field: slice, value: bytes, message: str) -> None:
    block = bytearray(tar([member("a")])[:512])
    block[field] = value
    with pytest.raises(CorruptLayerError, match=message):
        parse(with_checksum(block))


def test_a_lone_zero_block_before_data_is_corrupt() -> None:
    blob = tar([member("a")])
    with pytest.raises(CorruptLayerError, match="zero block"):
        parse(bytes(512) + blob)


@pytest.mark.parametrize(
    "record",
    [
        b"no length",
        b"99 path=a\n",
        b"9 path=ab",
        b"7 path\n",
        b"10 =value\n",
        b"11 path=a\0\n",
        b"0 a=b\n",
        b"13 size=-100\n",
    ],
)
def test_damaged_pax_records_are_corrupt(record: bytes) -> None:
    pax = with_checksum(bytearray(tar([member("pax", record, kind=b"x")], tarfile.USTAR_FORMAT)[:512]))
    with pytest.raises(CorruptLayerError, match="PAX"):
        parse(pax + record.ljust(512, b"\0") + tar([member("real")]))


@pytest.mark.parametrize(
    ("limit", "blob"),
    [
        ("layer_entries", tar([member(str(number)) for number in range(20)])),
        ("pax_record", tar([member("x" * 20_000)], tarfile.GNU_FORMAT)),
        ("pax_record", tar([member("x", pax_headers={"comment": "c" * 20_000})])),
        ("layer_size", tar([member("big", b"0" * 9000)])),
    ],
)
def test_limits_are_named(limit: str, blob: bytes) -> None:
    limits = replace(LayerLimits(), layer_entries=10, pax_record=8192, layer_size=8192)
    with pytest.raises(LimitExceededError) as caught:
        parse(blob, limits=limits)
    assert caught.value.details["limit"] == limit


@given(st.binary(max_size=2048), st.integers(1, 600))
def test_noise_is_refused_or_read_but_never_crashes(noise: bytes, piece: int) -> None:
    with contextlib.suppress(CorruptLayerError, LimitExceededError):
        parse(noise, piece)


@given(st.integers(0, 3000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_but_never_crashes(at: int, value: int) -> None:
    blob = bytearray(tar([member("n" * 150, b"data"), member("x", pax_headers={"mtime": "1.5"})], tarfile.PAX_FORMAT))
    blob[at % len(blob)] = value
    with contextlib.suppress(CorruptLayerError, LimitExceededError):
        parse(bytes(blob))


@given(st.text("./ab", max_size=12))
def test_cleaning_is_gos_path_clean(name: str) -> None:
    assert clean(name) == normpath("/" + name.lstrip("/"))[1:]
