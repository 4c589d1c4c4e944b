"""The bootstrap codec: vectors of real files, round trips of any tree, every damage named."""

from __future__ import annotations

import json
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.merge import merge
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.decode import check_bootstrap, decode_bootstrap, validate_bootstrap
from drivers.nydus.rafs_v6.directory import decode_directory, directory_size, encode_directory
from drivers.nydus.rafs_v6.encode import encode_bootstrap
from drivers.nydus.rafs_v6.layout import OWN_BLOB_ID, Compressor, Digester
from drivers.nydus.rafs_v6.xattrs import decode_xattrs, encode_xattrs, is_storable
from drivers.nydus.tree import Inode, Mark, directory, walk
from shared.errors import UnsupportedError
from tests.unit.drivers.nydus.trees import chunked, directories, facts, file, names, symlink

GOLDEN = sorted((Path(__file__).parents[3] / "data" / "nydus").glob("*.boot"))


def without_blobs(root: Inode) -> Bootstrap:
    return Bootstrap(root, [], 0x100000, Compressor.ZSTD, Digester.BLAKE3)


def put(parent: Inode, name: bytes, child: Inode) -> Inode:
    assert parent.children is not None
    parent.children[name] = child
    return child


def sample() -> Bootstrap:
    root = directory()
    usr = put(root, b"usr", directory())
    big, content = file(bytes(range(256)) * 10_000)
    small, text = file(b"hello")
    put(usr, b"big", big)
    put(usr, b"small", small)
    put(usr, b"again", small)
    put(root, b"link", symlink(b"usr/small"))
    small.xattrs = ((b"user.foo", b"bar"),)
    return chunked(root, [(big, content), (small, text)])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_bootstrap_of_the_reference_builder_survives_a_round_trip_byte_for_byte(path: Path) -> None:
    data = path.read_bytes()
    assert encode_bootstrap(decode_bootstrap(data)) == data


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) >= 4


def test_layers_of_the_reference_builder_merge_into_its_own_bytes() -> None:
    folder = GOLDEN[0].parent
    recipe = json.loads((folder / "merged.json").read_bytes())
    layers = [decode_bootstrap((folder / layer["file"]).read_bytes(), layer["blob"]) for layer in recipe["layers"]]
    merged = merge(
        layers,
        chunk_size=0x100000,
        compressor=Compressor.ZSTD,
        digester=Digester.BLAKE3,
        prefetch_patterns=recipe["prefetch"],
    )
    assert encode_bootstrap(merged) == (folder / "merged.boot").read_bytes()
    assert [(layer.root.children, layer.prefetch) for layer in layers] == [({}, [])] * len(layers)  # held once


@given(directories())
@settings(max_examples=60, deadline=None)
def test_any_tree_survives_a_round_trip(root: Inode) -> None:
    data = encode_bootstrap(without_blobs(root))
    decoded = decode_bootstrap(data)
    assert facts(decoded.root) == facts(root)
    assert encode_bootstrap(decoded) == data


@given(directories(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_tree_with_data_survives_a_round_trip(root: Inode, data: st.DataObject) -> None:
    """Contents around the chunk size, some of them equal, so that files share chunks."""
    contents = []
    for _, inode in walk(root):
        if stat.S_ISREG(inode.mode):
            letter = data.draw(st.binary(min_size=1, max_size=1))
            inode.size = data.draw(st.sampled_from([0, 1, 4095, 4096, 4097, 8192, 3 * 4096 + 7]))
            contents.append((inode, letter * inode.size))
    bootstrap = chunked(root, contents, Parameters(chunk_size=0x1000))
    encoded = encode_bootstrap(bootstrap)
    decoded = decode_bootstrap(encoded)
    assert facts(decoded.root) == facts(root)
    assert encode_bootstrap(decoded) == encoded


@given(st.lists(names, min_size=1, max_size=400, unique=True))
@settings(max_examples=60, deadline=None)
def test_directory_data_holds_its_names_in_order_and_has_the_computed_size(found: list[bytes]) -> None:
    ordered = sorted(found)
    data = encode_directory(ordered, range(1, len(ordered) + 1), [1] * len(ordered))
    assert len(data) == directory_size(ordered)
    assert [(name, nid) for name, nid, _ in decode_directory(data)] == [
        (name, number + 1) for number, name in enumerate(ordered)
    ]


@pytest.mark.parametrize("length", range(236, 256))
def test_directories_around_a_block_boundary(length: int) -> None:
    root = directory()
    for number in range(16):
        put(root, b"%02d" % number + b"x" * (length - 2), Inode(stat.S_IFREG | 0o644))
    decoded = decode_bootstrap(encode_bootstrap(without_blobs(root)))
    assert facts(decoded.root) == facts(root)


@pytest.mark.parametrize("length", [1, 60, 4031, 4032, 4033, 4095, 4096])
def test_symbolic_links_around_a_block_boundary(length: int) -> None:
    root = directory()
    put(root, b"link", symlink(b"t" * length))
    decoded = decode_bootstrap(encode_bootstrap(without_blobs(root)))
    assert facts(decoded.root) == facts(root)


def test_names_that_sort_before_the_dots_do() -> None:
    root = directory()
    for name in (b"!x", b"-", b"+a", b"...", b".a", b"\x01"):
        put(root, name, Inode(stat.S_IFREG))
    assert facts(decode_bootstrap(encode_bootstrap(without_blobs(root))).root) == facts(root)


def test_a_tree_deeper_than_the_interpreters_recursion_limit() -> None:
    root = inode = directory()
    for _ in range(2000):
        inode = put(inode, b"d", directory())
    data = encode_bootstrap(without_blobs(root))
    assert encode_bootstrap(decode_bootstrap(data)) == data


def test_an_image_without_data_has_no_devices() -> None:
    data = encode_bootstrap(without_blobs(directory()))
    decoded = validate_bootstrap(data)
    assert decoded.blobs == []
    assert int.from_bytes(data[1024 + 40 : 1024 + 44], "little") == 0  # meta_blkaddr and the root behind it


def test_files_chunks_and_hard_links_survive() -> None:
    bootstrap = sample()
    data = encode_bootstrap(bootstrap)
    decoded = decode_bootstrap(data)
    assert facts(decoded.root) == facts(bootstrap.root)
    assert encode_bootstrap(decoded) == data


def test_the_layers_own_blob_takes_the_id_it_is_given() -> None:
    data = encode_bootstrap(sample())
    assert decode_bootstrap(data).blobs[0].id == OWN_BLOB_ID
    assert decode_bootstrap(data, "ab" * 32).blobs[0].id == "ab" * 32


def test_marks_of_a_layer_survive_and_are_not_those_of_an_image() -> None:
    root = directory(mark=Mark.IMPLIED)
    put(root, b"link", Inode(stat.S_IFLNK | 0o777, target=b"lower", mark=Mark.LOWER_LINK))
    decoded = decode_bootstrap(encode_bootstrap(without_blobs(root)))
    assert decoded.root.mark is Mark.IMPLIED
    assert decoded.root.children is not None
    assert decoded.root.children[b"link"].mark is Mark.LOWER_LINK


@pytest.mark.parametrize("chunk_size", [0x1000, 0x100000, 0x1000000])
def test_contiguous_chunks_are_one_large_chunk_to_the_kernel(chunk_size: int) -> None:
    root = directory()
    inode, content = file(bytes(range(255)) * (chunk_size // 50))
    put(root, b"file", inode)
    data = encode_bootstrap(chunked(root, [(inode, content)], Parameters(chunk_size=chunk_size)))
    assert decode_bootstrap(data).root.children is not None


@given(st.dictionaries(st.sampled_from([b"user.a", b"security.b", b"trusted.c", b"user." + b"n" * 250]), st.binary()))
def test_extended_attributes_survive(found: dict[bytes, bytes]) -> None:
    xattrs = tuple(sorted(found.items()))
    assert decode_xattrs(encode_xattrs(xattrs)) == xattrs


def test_an_attribute_as_the_reference_writes_it() -> None:
    entry = bytes.fromhex("03010300666f6f6261720000")
    assert encode_xattrs(((b"user.foo", b"bar"),)) == bytes(12) + entry


@pytest.mark.parametrize("key", [b"btrfs.x", b"user.", b"user." + b"n" * 251, b"system.posix_acl_accessx", b""])
def test_attributes_that_the_format_cannot_hold_are_known(key: bytes) -> None:
    assert not is_storable(key, b"")


def test_a_value_of_more_than_64_kib_cannot_be_held() -> None:
    assert is_storable(b"user.a", bytes(0xFFFF))
    assert not is_storable(b"user.a", bytes(0x10000))


def test_a_symbolic_link_longer_than_the_format_allows_is_refused() -> None:
    root = directory()
    put(root, b"link", symlink(b"t" * 4097))
    with pytest.raises(UnsupportedError, match="4097"):
        encode_bootstrap(without_blobs(root))


def test_the_compact_inodes_of_old_builders_are_read() -> None:
    root = directory()
    put(root, b"file", Inode(stat.S_IFREG | 0o640, uid=7, gid=9))
    data = bytearray(encode_bootstrap(without_blobs(root)))
    at = next(at for at in range(4096, len(data), 32) if data[at + 4 : at + 6] == (0o100640).to_bytes(2, "little"))
    compact = struct.pack("<HHHHIIIIHHI", 4 << 1, 0, 0o100640, 1, 0, 0, 0x28, 2, 7, 9, 0)
    data[at : at + 64] = compact + bytes(32)
    decoded = decode_bootstrap(bytes(data)).root
    assert facts(decoded) == facts(root)


SUPERBLOCK = 1024
EXTENDED = 1152
DEVICE = 1408
BLOB = 4096

DAMAGE = [
    (SUPERBLOCK, b"\0", "superblock.magic"),
    (SUPERBLOCK + 4, b"\1", "superblock.checksum"),
    (SUPERBLOCK + 8, b"\1", "superblock.feature_compat"),
    (SUPERBLOCK + 12, b"\x09", "superblock.blkszbits"),
    (SUPERBLOCK + 13, b"\1", "superblock.extslots"),
    (SUPERBLOCK + 14, b"\0\0", "superblock.root_nid"),
    (SUPERBLOCK + 14, b"\xff\xff", "superblock.root_nid"),
    (SUPERBLOCK + 16, bytes(8), "superblock.inos"),
    (SUPERBLOCK + 16, b"\7", "superblock.inos"),
    (SUPERBLOCK + 16, b"\2", "superblock.inos"),
    (SUPERBLOCK + 16, b"\xff\xff", "superblock.inos"),
    (SUPERBLOCK + 40, b"\xff\xff", "superblock.root_nid"),
    (SUPERBLOCK + 44, b"\1", "superblock.xattr_blkaddr"),
    (SUPERBLOCK + 80, b"\0", "superblock.feature_incompat"),
    (SUPERBLOCK + 84, b"\1", "superblock.union"),
    (SUPERBLOCK + 86, b"\xff\0", "superblock.extra_devices"),
    (SUPERBLOCK + 88, b"\0", "superblock.devt_slotoff"),
    (EXTENDED, b"\xff", "extended.flags"),
    (EXTENDED + 3, b"\x80", "extended.flags"),
    (EXTENDED + 8, b"\1", "extended.blob_table_offset"),
    (EXTENDED + 16, bytes(4), "extended.blob_table_size"),
    (EXTENDED + 20, b"\1", "extended.chunk_size"),
    (EXTENDED + 24, b"\1", "extended.chunk_table_offset"),
    (EXTENDED + 32, b"\1", "extended.chunk_table_size"),
    (EXTENDED + 34, b"\xff", "extended.chunk_table_size"),
    (EXTENDED + 40, b"\1", "extended.prefetch_table_offset"),
    (EXTENDED + 48, b"\1", "extended.prefetch_table_size"),
    (DEVICE, b"y", "device[0].id"),
    (DEVICE + 64, bytes(4), "device[0].blocks"),
    (BLOB, b"\xff", "blob[0].id"),
    (BLOB + 63, b"\0", "blob[0].id"),
    (BLOB + 64, b"\1", "blob[0].index"),
    (BLOB + 68, b"\1", "blob[0].chunk_size"),
    (BLOB + 72, bytes(4), "blob[0].chunk_count"),
    (BLOB + 76, b"\x09", "blob[0].compressor"),
    (BLOB + 80, b"\x09", "blob[0].digester"),
    (BLOB + 84, b"\0", "blob[0].features"),
    (BLOB + 85, b"\xf0", "blob[0].features"),
    (BLOB + 96, bytes(8), "blob[0].uncompressed_size"),
    (BLOB + 108, b"\x09", "blob[0].ci_compressor"),
    (BLOB + 120, bytes(8), "blob[0].ci_compressed_size"),
    (BLOB + 128, b"\xff", "blob[0].ci_uncompressed_size"),
]


@pytest.mark.parametrize(("offset", "value", "field"), DAMAGE, ids=str)
def test_damage_to_a_fixed_structure_names_its_field(offset: int, value: bytes, field: str) -> None:
    data = bytearray(encode_bootstrap(sample()))
    data[offset : offset + len(value)] = value
    with pytest.raises(InvalidNydusError) as caught:
        decode_bootstrap(bytes(data))
    assert caught.value.field == field
    assert caught.value.code == "invalid_nydus"


def inode_at(data: bytes | bytearray, path_nid: int) -> int:
    meta = int.from_bytes(data[SUPERBLOCK + 40 : SUPERBLOCK + 44], "little") * 4096
    return meta + 32 * path_nid


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (0, b"\x0f", "format"),
        (2, b"\xff\xff", "xattr_icount"),
        (4, bytes(2), "mode"),
        (8, b"\xff\xff\xff\x0f", "size"),
        (40, b"\xff\xff\xff\xff", "mtime_nsec"),
        (44, b"\x09", "nlink"),
        (48, b"\x09", "reserved"),
    ],
)
def test_damage_to_the_root_inode_names_its_field(offset: int, value: bytes, field: str) -> None:
    data = bytearray(encode_bootstrap(sample()))
    at = inode_at(data, 128) + offset
    data[at : at + len(value)] = value
    with pytest.raises(InvalidNydusError) as caught:
        decode_bootstrap(bytes(data))
    assert caught.value.field == f"inode[128].{field}"


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (32, b"\x09", "blob_index"),
        (36, b"\xe1", "flags"),
        (40, bytes(4), "compressed_size"),
        (44, bytes(4), "uncompressed_size"),
        (56, b"\1", "uncompressed_offset"),
        (60, b"\1", "uncompressed_offset"),
        (72, b"\xff", "index"),
    ],
)
def test_damage_to_a_chunk_record_names_its_field(offset: int, value: bytes, field: str) -> None:
    data = bytearray(encode_bootstrap(sample()))
    at = int.from_bytes(data[EXTENDED + 24 : EXTENDED + 32], "little") + offset
    data[at : at + len(value)] = value
    with pytest.raises(InvalidNydusError) as caught:
        decode_bootstrap(bytes(data))
    assert caught.value.field == f"chunk[0].{field}"


def test_a_chunk_index_without_a_record_is_refused() -> None:
    data = bytearray(encode_bootstrap(sample()))
    table = int.from_bytes(data[EXTENDED + 24 : EXTENDED + 32], "little")
    data[EXTENDED + 32 : EXTENDED + 40] = (80).to_bytes(8, "little")
    del data[table + 4096 :]
    with pytest.raises(InvalidNydusError, match="no record in the chunk table"):
        decode_bootstrap(bytes(data))


def test_two_directories_that_hold_each_other_are_refused() -> None:
    root = directory()
    put(root, b"a", directory())
    data = bytearray(encode_bootstrap(without_blobs(root)))
    at = data.index(b"...a") - 12
    data[at : at + 8] = (128).to_bytes(8, "little")
    with pytest.raises(InvalidNydusError, match="two parents"):
        decode_bootstrap(bytes(data))


def test_inodes_that_share_their_data_are_refused_before_they_fill_the_memory() -> None:
    """2,000 directories that each claim the whole file."""
    root = directory()
    for number in range(2000):
        put(root, b"%04d" % number, directory())
    data = bytearray(encode_bootstrap(without_blobs(root)))
    for at in range(4096 + 64, len(data) - 64, 32):
        if data[at + 4 : at + 6] == (0o40755).to_bytes(2, "little") and data[at] == 1 | 2 << 1:
            data[at] = 1  # extended, its data in whole blocks
            data[at + 8 : at + 16] = (len(data) - 4096).to_bytes(8, "little")
            data[at + 16 : at + 20] = (1).to_bytes(4, "little")
    with pytest.raises(InvalidNydusError, match="overlap"):
        decode_bootstrap(bytes(data))


def test_an_images_bootstrap_must_not_claim_to_be_inline() -> None:
    data = encode_bootstrap(sample())
    with pytest.raises(InvalidNydusError) as caught:
        validate_bootstrap(data)
    assert caught.value.field == "blob[0].features"


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_random_damage_is_refused_or_harmless_and_never_an_unclassified_error(data: st.DataObject) -> None:
    original = encode_bootstrap(sample())
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(1024, len(original) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(original)), st.integers(0, len(original))))
    assert refusal(check_bootstrap, bytes(damaged[:cut])) == refusal(validate_bootstrap, bytes(damaged[:cut]))


def refusal(check: Callable[[bytes], object], data: bytes) -> str | None:
    """The field that is named; any other error fails the test."""
    try:
        check(data)
    except InvalidNydusError as error:
        return error.field
    return None


@pytest.mark.parametrize("read", [check_bootstrap, validate_bootstrap])
def test_a_plain_file_under_a_second_name_is_missed_in_its_link_count(read: Callable[[bytes], object]) -> None:
    root = directory()
    files = [file(b"one"), file(b"two")]
    put(root, b"a", files[0][0])
    put(root, b"b", files[1][0])
    data = bytearray(encode_bootstrap(chunked(root, files)))
    names_at = data.index(b"...ab")
    data[names_at - 12 : names_at - 4] = data[names_at - 24 : names_at - 16]
    with pytest.raises(InvalidNydusError, match="is 1, the tree has 2 names"):
        read(bytes(data))
