"""Trees for codec tests: compared by content, generated at random, built from short descriptions."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from hypothesis import strategies as st

from drivers.nydus.blob.assembler import BlobAssembler, PackedBatch
from drivers.nydus.compression import compress, digest
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.bootstrap import Bootstrap
from drivers.nydus.tree import Inode, directory, walk

PARAMETERS = Parameters()


def file(content: bytes = b"", mode: int = 0o644, mtime: int = 0) -> tuple[Inode, bytes]:
    return Inode(stat.S_IFREG | mode, mtime=mtime, size=len(content)), content


def symlink(target: bytes) -> Inode:
    return Inode(stat.S_IFLNK | 0o777, target=target)


def chunked(root: Inode, contents: Sequence[tuple[Inode, bytes]], parameters: Parameters = PARAMETERS) -> Bootstrap:
    """A layer's bootstrap with the files' contents packed."""
    assembler = BlobAssembler(parameters)
    for inode, content in contents:
        for start in range(0, len(content), parameters.chunk_size):
            piece = content[start : start + parameters.chunk_size]
            packed = compress(piece, parameters.compressor)
            name = digest(piece, parameters.digester)
            assembler.add([inode], PackedBatch([name], [len(piece)], {name: packed}))
    return assembler.finish(root).bootstrap


def facts(root: Inode) -> list[tuple[object, ...]]:
    """Everything that a tree says, comparable: hard links by the first path, chunks by digest."""
    first: dict[Inode, bytes] = {}
    listing: list[tuple[object, ...]] = []
    for path, inode in [(b"", root), *walk(root)]:
        first.setdefault(inode, path)
        chunks = tuple((c.blob.id, c.index, c.digest, c.uncompressed_size) for c in inode.chunks)
        listing.append(
            (
                path,
                first[inode],
                inode.mode,
                inode.uid,
                inode.gid,
                inode.mtime,
                inode.mtime_ns,
                inode.size,
                inode.rdev,
                inode.target,
                inode.xattrs,
                chunks,
                inode.mark,
            )
        )
    return listing


names = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
_owners = st.integers(0, 0xFFFFFFFF)
_keys = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda rest: b"user." + rest),
    st.binary(min_size=1, max_size=40).map(lambda rest: b"security." + rest),
    st.just(b"system.posix_acl_access"),
)
_xattrs = st.dictionaries(_keys, st.binary(max_size=200), max_size=4).map(lambda found: tuple(sorted(found.items())))


@st.composite
def leaves(draw: st.DrawFn) -> Inode:
    kind = draw(st.sampled_from([stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO]))
    inode = Inode(
        kind | draw(st.integers(0, 0o7777)),
        draw(_owners),
        draw(_owners),
        draw(st.integers(0, 2**40)),
        draw(st.integers(0, 999_999_999)),
        xattrs=draw(_xattrs),
    )
    if kind == stat.S_IFLNK:
        inode.target = draw(st.binary(min_size=1, max_size=4096).filter(lambda target: b"\0" not in target))
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        inode.rdev = draw(_owners)
    return inode


@st.composite
def directories(draw: st.DrawFn, depth: int = 3) -> Inode:
    inode = directory(draw(st.integers(0, 0o7777)))
    inode.xattrs = draw(_xattrs)
    inode.mtime = draw(st.integers(-(2**40), 2**40))
    child = leaves() if depth == 0 else st.one_of(leaves(), directories(depth - 1))
    inode.children = draw(st.dictionaries(names, child, max_size=6))
    return inode
