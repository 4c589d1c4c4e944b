"""Layer trees and their overlay, in memory; the same rules are held against umoci in the integration tests."""

from __future__ import annotations

import pytest

from drivers.nydus.layer_tree import LayerTree
from drivers.nydus.merge import merge
from drivers.nydus.overlay import Overlay
from drivers.nydus.parameters import Parameters
from drivers.nydus.paths import components, find
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.rafs_v6.layout import Compressor, Digester
from drivers.nydus.tree import Inode, Mark, directory, walk
from shared.errors import CorruptLayerError, UnsupportedError
from tests.unit.drivers.nydus.trees import chunked, file

FILE = 0o100644


def layer(*entries: str) -> Inode:
    """``d/`` a directory, ``a>b`` a symbolic link, ``a=b`` a hard link, all else a file."""
    tree = LayerTree()
    for position, entry in enumerate(entries):
        path, link, target = entry.partition(">")
        if link:
            tree.add(path.encode(), Inode(0o120777, target=target.encode()))
            continue
        path, link, target = entry.partition("=")
        if link:
            tree.link(path.encode(), target.encode())
        elif path.endswith("/"):
            inode = directory()
            inode.uid = position + 1
            tree.add(path.encode(), inode)
        else:
            tree.add(path.encode(), Inode(FILE, uid=position + 1))
    return tree.root


def applied(*layers: Inode) -> dict[str, int]:
    """Path → owner, which tells which entry won."""
    overlay = Overlay()
    for each in layers:
        overlay.apply(each)
    return {path.decode(): inode.uid for path, inode in walk(overlay.root)}


def test_a_whiteout_hides_lower_layers_only() -> None:
    assert applied(layer("a", "b"), layer(".wh.a", "c", ".wh.c")) == {"b": 2, "c": 2}


def test_whiteouts_of_the_lowest_layer_leave_nothing_behind() -> None:
    assert applied(layer("a", ".wh.b", "d/", "d/.wh..wh..opq", ".wh..wh.plnk")) == {"a": 1, "d": 3}


def test_a_directory_named_as_a_whiteout_is_one_and_what_is_in_it_is_nowhere() -> None:
    """No file system of an image has names that begin so (OCI image spec, layer.md)."""
    lower = layer("x", "d/", "d/a")
    assert applied(lower, layer(".wh.x/", ".wh.x/in", "d/.wh..wh..opq/", "d/.wh..wh..opq/in", "d/b")) == {
        "d": 2,
        "d/b": 5,
    }
    assert applied(lower, layer("x/", ".wh.x>d", "x/in")) == {"x": 1, "x/in": 3, "d": 2, "d/a": 3}


def test_what_aufs_linked_through_its_own_directory_stays() -> None:
    """Layers of old Docker versions keep a hard-linked file's content there."""
    linked = layer(".wh..wh.plnk/", ".wh..wh.plnk/1.2", "a=.wh..wh.plnk/1.2", "b=.wh..wh.plnk/1.2")
    assert applied(linked) == {"a": 2, "b": 2}


def test_an_opaque_directory_keeps_what_its_own_layer_has_whatever_the_order() -> None:
    assert applied(layer("d/", "d/a"), layer("d/b", "d/.wh..wh..opq", "d/c")) == {"d": 1, "d/b": 1, "d/c": 3}


def test_a_whiteout_and_a_new_directory_do_not_mix_with_the_old_one() -> None:
    assert applied(layer("d/", "d/a"), layer(".wh.d", "d/", "d/b")) == {"d": 2, "d/b": 3}


def test_a_file_then_a_directory_in_one_layer_hides_the_lower_directory() -> None:
    assert applied(layer("d/", "d/a"), layer("d", "d/", "d/b")) == {"d": 2, "d/b": 3}


def test_an_implied_directory_takes_no_attributes_over() -> None:
    assert applied(layer("x", "d/"), layer("d/a")) == {"x": 1, "d": 2, "d/a": 1}


def test_an_implied_directory_over_a_file_replaces_it() -> None:
    assert applied(layer("d"), layer("d/a")) == {"d": 0, "d/a": 1}


@pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "./usr/../usr/lib", "../../usr/lib", "other"])
def test_files_below_a_lower_link_go_where_it_leads(target: str) -> None:
    lower = layer("usr/", "usr/lib/", "other>usr/lib", f"lib>{target}")
    assert applied(lower, layer("lib/x")) == {"usr": 1, "usr/lib": 2, "usr/lib/x": 1, "other": 0, "lib": 0}


def test_where_a_lower_link_leads_is_made_if_it_is_not_there() -> None:
    assert applied(layer("l>a/b"), layer("l/x")) == {"l": 0, "a": 0, "a/b": 0, "a/b/x": 1}


@pytest.mark.parametrize("lower", [["l>m", "m>l"], ["l>f", "f"]])
def test_a_link_that_leads_round_or_to_a_file_is_no_directory(lower: list[str]) -> None:
    with pytest.raises(CorruptLayerError):
        applied(layer(*lower), layer("l/x"))


def test_whiteouts_alone_make_nothing_and_replace_nothing() -> None:
    assert applied(layer("a", "l>nowhere"), layer("a/.wh.x", "l/b/.wh.x", "d/.wh..wh..opq")) == {"a": 1, "l": 0}


def test_whiteouts_hide_before_anything_is_added() -> None:
    """The layer has two paths to one directory: what it adds by one must not go with what it hides by the other."""
    lower = layer("usr/", "usr/lib/", "usr/lib/old", "lib>usr/lib")
    assert applied(lower, layer("lib/x", "usr/.wh.lib")) == {"usr": 1, "usr/lib": 0, "usr/lib/x": 1, "lib": 0}
    assert applied(lower, layer("lib/.wh..wh..opq", "usr/lib/x")) == {"usr": 1, "usr/lib": 2, "usr/lib/x": 2, "lib": 0}


def test_a_link_inside_the_layer_is_followed_as_extraction_would() -> None:
    assert applied(layer("usr/", "lib>usr", "lib/x")) == {"usr": 1, "usr/x": 3, "lib": 0}


def test_hard_links_share_an_inode_across_layers() -> None:
    overlay = Overlay()
    overlay.apply(layer("a"))
    overlay.apply(layer("b=a"))
    assert find(overlay.root, [b"a"]) is find(overlay.root, [b"b"])


def test_a_hard_link_into_a_lower_layer_is_what_was_there_before_this_layer() -> None:
    overlay = Overlay()
    overlay.apply(layer("a"))
    overlay.apply(layer("b=a", ".wh.a"))
    found = find(overlay.root, [b"b"])
    assert found is not None
    assert found.uid == 1
    assert found.mark is Mark.NONE


LINKED = ("usr/", "usr/lib/", "usr/lib/a", "usr/lib/z", "lib>usr/lib", "here>.")


@pytest.mark.parametrize(
    ("upper", "owner"),
    [
        (["usr/lib/a", "b=lib/a"], 1),
        (["-", "lib/a", "b=usr/lib/a"], 2),
        (["b=lib/z"], 4),
        (["b=lib/z", "usr/lib/.wh.z"], 4),
        (["-", "-", "lib/x", "b=usr/lib/x"], 3),
        (["other/", "other/a", "lib>other", "b=lib/a"], 2),
        (["-", "usr/lib/a", "c=lib/a", "usr/lib/d=here/c", "b=lib/d"], 2),
        (["b=usr/lib/a", "usr/lib/a"], 3),
    ],
)
def test_a_hard_link_is_of_the_file_that_its_path_leads_to_through_lower_links(upper: list[str], owner: int) -> None:
    assert applied(layer(*LINKED), layer(*upper))["b"] == owner


def test_hard_links_that_only_lead_to_each_other_are_refused() -> None:
    with pytest.raises(CorruptLayerError, match="is no file of the image"):
        applied(layer("here>."), layer("b=here/c", "c=here/b"))


@pytest.mark.parametrize("entries", [["b=a"], ["d/", "b=d"]])
def test_a_hard_link_to_nothing_or_to_a_directory_is_refused(entries: list[str]) -> None:
    with pytest.raises(CorruptLayerError):
        applied(layer("x"), layer(*entries))


def test_the_applied_layers_stay_as_they_were() -> None:
    lower, upper = layer("d/", "d/a"), layer("d/", ".wh.x", "d/b")
    applied(lower, upper)
    assert [path for path, _ in walk(upper)] == [b".wh.x", b"d", b"d/b"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [(b"a/../b", [b"b"]), (b"../../b", [b"b"]), (b"a/b/..", [b"a"]), (b"..", []), (b"/./a//b/", [b"a", b"b"])],
)
def test_a_path_is_what_extraction_makes_of_it(path: bytes, expected: list[bytes]) -> None:
    assert components(path) == expected


@pytest.mark.parametrize("path", [b"a/" + b"n" * 256, b"a\0b", b"a/" * 2047 + b"ab"])
def test_paths_that_are_none_are_refused(path: bytes) -> None:
    with pytest.raises(CorruptLayerError):
        components(path)
    tree = LayerTree()
    tree.add(b"a/first", Inode(FILE))
    with pytest.raises(CorruptLayerError):
        tree.add(path, Inode(FILE))


def test_a_directory_that_was_replaced_is_not_written_to() -> None:
    """The tree remembers the last directory; replacing it must make it forget."""
    tree = LayerTree()
    tree.add(b"d/a", Inode(FILE))
    tree.add(b"d", Inode(0o120777, target=b"e"))
    tree.add(b"d/b", Inode(FILE))
    assert [path for path, _ in walk(tree.root)] == [b"d", b"e", b"e/b"]


@pytest.mark.parametrize("path", ["d/.", "d/./", "d/e/.."])
def test_a_directory_spelled_with_dots_is_not_taken_for_the_one_above_it(path: str) -> None:
    assert applied(layer(f"{path}/", "d/a")) == {"d": 1, "d/a": 2}
    assert applied(layer("d/e/", f"{path}/", "d/e/a")) == {"d": 2, "d/e": 1, "d/e/a": 3}


def data_layer(number: int, chunk_size: int = 0x1000) -> Bootstrap:
    root = directory()
    inode, content = file(b"%d" % number)
    root.children = {b"%d" % number: inode}
    bootstrap = chunked(root, [(inode, content)], Parameters(chunk_size=chunk_size))
    bootstrap.blobs[0].id = f"{number:064x}"
    return bootstrap


def merged(layers: list[Bootstrap]) -> Bootstrap:
    return merge(
        layers, chunk_size=0x1000, compressor=Compressor.ZSTD, digester=Digester.BLAKE3, prefetch_patterns=["/../x"]
    )


def test_254_layers_with_data_are_the_most_that_a_bootstrap_can_name() -> None:
    assert len(merged([data_layer(number) for number in range(254)]).blobs) == 254
    with pytest.raises(UnsupportedError, match="255 layers with data"):
        merged([data_layer(number) for number in range(255)])


def test_layers_with_different_chunk_sizes_do_not_merge() -> None:
    with pytest.raises(UnsupportedError, match="chunks of 8192 bytes"):
        merged([data_layer(1), data_layer(2, 0x2000)])


def test_a_root_that_is_no_directory_is_refused() -> None:
    with pytest.raises(CorruptLayerError):
        LayerTree().add(b"./", Inode(FILE))


def test_the_roots_attributes_are_those_of_the_highest_layer_that_has_it() -> None:
    overlay = Overlay()
    for owner in (5, 6):
        tree = LayerTree()
        root = directory()
        root.uid = owner
        tree.add(b"./", root)
        overlay.apply(tree.root)
    overlay.apply(layer("a"))
    assert overlay.root.uid == 6
