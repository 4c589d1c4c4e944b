"""The kernel mounts what we make, and sees the tree that umoci unpacks from the source image."""

from __future__ import annotations

import gzip
import os
import random
import tarfile
from pathlib import Path

import pytest

from drivers.nydus.options import NydusOptions
from drivers.testing.content import Repository
from drivers.testing.images import MTIME, Tar, add_image
from shared.oci.manifest import ImageManifest, encode_manifest
from tests.images.sparse import GNU_TAR, sparse_tar, write_files
from tests.images.trees import differences, tree_facts
from tests.integration.nydus.comparing import assert_same_tree, convert
from tests.integration.nydus.mounting import mounted_image
from tests.integration.nydus.umoci import unpack


def every_kind_of_file() -> bytes:
    rng = random.Random(5)
    return (
        Tar()
        .folder("./")
        .folder("bin", mode=0o1777, uid=10, gid=20)
        .file("bin/setuid", rng.randbytes(3_000_000), mode=0o4755, uid=1, gid=2)
        .file("bin/setgid", b"g", mode=0o2755)
        .file("bin/empty")
        .file("bin/text", b"text\n" * 100_000, xattrs={"user.foo": "bar", "security.x": "y", "trusted.t": "z"})
        .file("bin/same", b"text\n" * 100_000)
        .hardlink("bin/hard", "bin/text")
        .symlink("bin/link", "text")
        .hardlink("bin/hardlink-of-a-link", "bin/link")
        .symlink("bin/absolute", "/bin/text")
        .symlink("bin/long", "x" * 4095)
        .symlink("bin/labelled", "text", xattrs={"security.y": "1", "trusted.t": "2"})
        .entry("bin/fifo", b"6", xattrs={"trusted.t": "odd"})
        .entry("bin/char", b"3", devmajor=1, devminor=3, mode=0o666, xattrs={"security.y": "x" * 300})
        .entry("bin/block", b"4", devmajor=259, devminor=70000)
        .folder("n" * 100)
        .file("n" * 100 + "/" + "m" * 255, b"long")
        .file("caf\udce9-\udcff", b"not utf-8")
        .bytes()
    )


@pytest.mark.parametrize("compressor", ["zstd", "lz4_block", "none"])
@pytest.mark.parametrize("digester", ["blake3", "sha256"])
async def test_every_kind_of_file(compressor: str, digester: str, tmp_path: Path) -> None:
    repository = Repository()
    option = NydusOptions.model_validate({"compressor": compressor, "digester": digester, "chunk_size": 0x10000})
    await assert_same_tree(repository, add_image(repository, [every_kind_of_file()]), tmp_path, option)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_layers_of_every_compression(compression: str, tmp_path: Path) -> None:
    repository = Repository()
    layers = [every_kind_of_file(), Tar().bytes()]
    target, converted = await convert(
        repository, add_image(repository, layers, compression=compression), NydusOptions()
    )
    # Debian's umoci knows gzip only.
    expected = tree_facts(unpack(repository, add_image(repository, layers), tmp_path / "umoci"))
    with mounted_image(target, converted, tmp_path / "nydus") as root:
        assert differences(expected, tree_facts(root)) == []


KINDS = ("folder", "file", "link", "fifo", "hard")


def with_kind(tar: Tar, kind: str, name: str, content: str) -> Tar:
    """A directory has a file in it, a hard link is one of ``target``."""
    match kind:
        case "folder":
            return tar.folder(name, mode=0o711).file(f"{name}/{content}", b"in")
        case "file":
            return tar.file(name, content.encode() * 2000, mode=0o640)
        case "link":
            return tar.symlink(name, content)
        case "fifo":
            return tar.entry(name, b"6")
        case _:
            return tar.hardlink(name, "target")


def every_kind_over_every_kind(lower: Tar, upper: Tar) -> list[Tar]:
    """In one layer, or in two."""
    lower.file("target", b"target")
    for below in KINDS:
        for above in KINDS:
            name = f"{below}-{above}"
            with_kind(lower, below, name, "lower")
            with_kind(upper, above, name, "upper")
    return [lower] if lower is upper else [lower, upper]


OVERLAYS: dict[str, list[Tar]] = {
    "every kind of file over every other in two layers": every_kind_over_every_kind(Tar(), Tar()),
    "every kind of file over every other in one layer": every_kind_over_every_kind(tar := Tar(), tar),
    "whiteouts remove files, links and whole directories": [
        Tar().folder("d").file("d/a", b"a").file("d/b", b"b").folder("d/sub").file("d/sub/x").symlink("l", "d"),
        Tar().folder("d").file("d/.wh.a").file("d/.wh.sub").file(".wh.l"),
    ],
    "an opaque directory hides what is below and keeps what is beside": [
        Tar().folder("d").file("d/a").folder("d/sub").file("d/sub/x").file("e"),
        Tar().folder("d", uid=7).file("d/b", b"b").file("d/.wh..wh..opq"),
    ],
    "a whiteout and a new file of the same name": [
        Tar().folder("d").file("d/a", b"old"),
        Tar().file("d/.wh.a").file("d/a", b"new", mode=0o600),
    ],
    "a directory replaced by a file and back": [
        Tar().folder("d").file("d/a").folder("e").file("e/x"),
        Tar().file("d", b"now a file").symlink("e", "d"),
        Tar().folder("d", mode=0o700).file("d/b", b"b"),
    ],
    "directories change their attributes and keep their files": [
        Tar().folder("d").file("d/a", b"a"),
        Tar().folder("d", mode=0o1777, uid=3, gid=4, xattrs={"user.k": "v"}, mtime=MTIME + 5),
    ],
    "an implied directory keeps the lower layer's attributes": [
        Tar().folder("d", mode=0o700, uid=3, gid=4).folder("d/e", mode=0o711),
        Tar().file("d/e/f", b"f"),
    ],
    "a file below a lower layer's symbolic link goes where the link leads": [
        Tar().folder("usr").folder("usr/lib").symlink("lib", "usr/lib").symlink("abs", "/usr/lib"),
        Tar().file("lib/x", b"x").file("abs/y", b"y"),
    ],
    "a file below a lower layer's link that leads nowhere": [
        Tar().symlink("run", "/var/run").folder("a").symlink("a/b", "../c/d"),
        Tar().file("run/x", b"x").file("a/b/.wh.y").hardlink("a/z", "run/x"),
    ],
    "one directory by two paths, hidden by one and filled by the other": [
        Tar().folder("usr").folder("usr/lib").file("usr/lib/old").symlink("lib", "usr/lib"),
        Tar().folder("usr/lib").file("usr/lib/.wh..wh..opq").file("lib/x", b"x"),
    ],
    "whiteouts alone": [
        Tar().folder("d").file("d/a").file("d/b").file("e"),
        Tar().file("d/.wh.a").file(".wh.e"),
        Tar().file(".wh..wh..opq"),
        Tar().file("f", b"f"),
    ],
    "hard links to files of a lower layer": [
        Tar().folder("d").file("d/a", b"a" * 70000),
        Tar().hardlink("d/b", "d/a").hardlink("c", "d/a"),
    ],
    "hard links through a lower layer's symbolic link": [
        Tar()
        .folder("usr")
        .folder("usr/lib")
        .file("usr/lib/a", b"old")
        .file("usr/lib/z", b"z")
        .symlink("lib", "usr/lib"),
        Tar()
        .file("usr/lib/a", b"new")
        .hardlink("b", "lib/a")
        .file("lib/x", b"x")
        .hardlink("c", "usr/lib/x")
        .hardlink("lib/d", "usr/lib/a")
        .hardlink("e", "usr/lib/d")
        .hardlink("f", "lib/z"),
    ],
    "hard links that lose a name above": [
        Tar().file("a", b"a" * 70000).hardlink("b", "a").hardlink("c", "a"),
        Tar().file(".wh.b"),
        Tar().file("a", b"other"),
    ],
    "the same layer twice": [Tar().folder("d").file("d/a", b"a"), Tar().folder("d").file("d/a", b"a")],
    "a duplicate entry: the last one wins": [
        Tar().file("a", b"first").file("b", b"b").file("a", b"second", mode=0o600).folder("d").folder("d", mode=0o700),
    ],
    "a new version of a hard-linked file": [
        Tar().file("a", b"1").hardlink("b", "a"),
        Tar().file("a", b"2"),
    ],
    "names that sort around the dots": [Tar().file("!x", b"1").file("-", b"2").file("+a").file("...").file(".a")],
    "dots in paths": [
        Tar().folder("./d/").file("././d//a", b"a").folder("/abs").file("/abs/b", b"b"),
        Tar().file("abs/../d/c", b"c").file("../../up", b"up").hardlink("hard", "d/../abs/b"),
    ],
    "times long ago, far ahead and to the nanosecond": [
        Tar().file("a", mtime=-1).file("b", mtime=-86400.25).folder("c", mtime=-7).file("d", mtime=2**32 + 1.5),
        Tar().folder("c", mtime=-8).symlink("e", "a", mtime=1_700_000_000.125),
    ],
    "chains of hard links": [
        Tar().file("a", b"a" * 5000).hardlink("b", "/a").hardlink("c", "./b"),
        Tar().hardlink("d", "c").hardlink("e", "d").file(".wh.a").file("b", b"other"),
    ],
    "an empty image": [Tar(), Tar()],
    "only directories": [Tar().folder("a").folder("a/b"), Tar()],
}


@pytest.mark.parametrize("name", OVERLAYS)
async def test_layers_overlay_as_umoci_applies_them(name: str, tmp_path: Path) -> None:
    repository = Repository()
    image = add_image(repository, [layer.bytes() for layer in OVERLAYS[name]])
    await assert_same_tree(repository, image, tmp_path)


@pytest.mark.parametrize("written", GNU_TAR)
async def test_sparse_files(written: str, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    write_files(files)
    above = Tar().hardlink("hard", "hole first").bytes()
    repository = Repository()
    image = add_image(repository, [sparse_tar(files, GNU_TAR[written]), above])
    target, converted = await convert(repository, image, NydusOptions())
    if "pax" not in written:  # umoci, as containerd, does not know the older type of entry
        image = add_image(repository, [sparse_tar(files, GNU_TAR["pax-1.0"]), above])
    expected = tree_facts(unpack(repository, image, tmp_path / "umoci"))
    with mounted_image(target, converted, tmp_path / "nydus") as root:
        assert differences(expected, tree_facts(root)) == []


async def test_127_layers_that_add_change_and_remove(tmp_path: Path) -> None:
    layers = [Tar().folder("d").bytes()]
    for number in range(1, 127):
        tar = Tar().file(f"d/{number}", b"%d" % number * number).file("d/newest", b"%d" % number)
        if number > 5 and number % 3 == 0:
            tar.file(f"d/.wh.{number - 5}")
        if number % 10 == 0:
            tar = Tar()
        layers.append(tar.bytes())
    repository = Repository()
    await assert_same_tree(repository, add_image(repository, layers), tmp_path)


async def test_what_is_named_as_a_whiteout_is_one_whatever_it_is(tmp_path: Path) -> None:
    """As umoci has it, too, which then extracts what is in such a directory: under a name that the OCI image spec rules out."""
    layers = [
        Tar().folder("d").file("d/a").file("d/b").folder("e").file("e/c").file("f").file("g"),
        Tar().folder("d/.wh.a").file("d/.wh.a/in").symlink(".wh.f", "g").folder("e/.wh..wh..opq").file("e/h"),
    ]
    repository = Repository()
    image = add_image(repository, [layer.bytes() for layer in layers])
    target, converted = await convert(repository, image, NydusOptions())
    unpacked = set(tree_facts(unpack(repository, image, tmp_path / "umoci")))
    assert unpacked - {b"d/.wh.a", b"d/.wh.a/in"} == {b".", b"d", b"d/b", b"e", b"e/h", b"g"}
    with mounted_image(target, converted, tmp_path / "nydus") as root:
        assert set(tree_facts(root)) == {b".", b"d", b"d/b", b"e", b"e/h", b"g"}


async def test_100_000_files_in_one_directory(tmp_path: Path) -> None:
    tar = Tar(format=tarfile.USTAR_FORMAT).folder("d")
    for number in range(100_000):
        tar.file(f"d/file-{number}", b"%d" % (number % 1000))
    repository = Repository()
    target, converted = await convert(
        repository, add_image(repository, [tar.bytes()], compression="zstd"), NydusOptions()
    )
    with mounted_image(target, converted, tmp_path) as root:
        assert sum(1 for _ in (root / "d").iterdir()) == 100_000
        for number in range(0, 100_000, 997):
            assert (root / "d" / f"file-{number}").read_bytes() == b"%d" % (number % 1000)


async def test_names_links_and_attributes_at_their_limits(tmp_path: Path) -> None:
    tar = Tar().folder("d")
    for length in (1, 100, 101, 254, 255):
        tar.file("d/" + "n" * length, b"x" * length)
    for length in (1, 99, 100, 4000, 4031, 4032, 4033, 4094, 4095):
        tar.symlink(f"d/link-{length}", "t" * length)
    tar.folder("d/acl", xattrs={f"trusted.{number}": str(number) for number in range(50)})
    repository = Repository()
    await assert_same_tree(repository, add_image(repository, [tar.bytes()]), tmp_path)


async def test_more_attributes_than_the_disk_under_umoci_could_hold(tmp_path: Path) -> None:
    attributes = {f"user.key-{number}": "v" * (number * 40) for number in range(100)}
    tar = Tar().file("many", b"a", xattrs=attributes).file("large", b"b", xattrs={"user.x": "v" * 0xFFFF})
    repository = Repository()
    target, converted = await convert(repository, add_image(repository, [tar.bytes()]), NydusOptions())
    with mounted_image(target, converted, tmp_path) as root:
        found = {name: os.getxattr(root / "many", name).decode() for name in os.listxattr(root / "many")}
        assert found == attributes
        assert os.getxattr(root / "large", "user.x") == b"v" * 0xFFFF


async def test_a_file_of_five_gigabytes(tmp_path: Path) -> None:
    """Zeros with a mark at the end: stored once, in bounded memory."""
    size = 5 << 30
    info = tarfile.TarInfo("large")
    info.size = size + 3
    zeros = gzip.compress(bytes(64 << 20), 1, mtime=0)
    layer = gzip.compress(info.tobuf()) + zeros * (size // (64 << 20)) + gzip.compress(b"end".ljust(512 + 1024, b"\0"))
    repository = Repository()
    image = add_image(repository, [b""])
    described = repository.add(layer, image.layers[0].media_type)
    manifest = encode_manifest({**image.data, "layers": [described.to_json()]})
    assert isinstance(manifest, ImageManifest)
    target, converted = await convert(repository, manifest, NydusOptions())
    assert converted.layers[0].size < 100_000
    with mounted_image(target, converted, tmp_path) as root, (root / "large").open("rb") as file:
        assert (root / "large").stat().st_size == size + 3
        for offset in range(0, size, 700 << 20):
            file.seek(offset)
            assert file.read(1 << 20) == bytes(1 << 20)
        file.seek(size - 5)
        assert file.read() == b"\0" * 5 + b"end"
