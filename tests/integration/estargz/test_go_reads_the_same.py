"""Entries are what Go's archive/tar, which container runtimes unpack with, makes of the same bytes: random headers and records."""

from __future__ import annotations

import hashlib
import random
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drivers.limits import LayerLimits
from drivers.tar.entry import GLOBAL_PAX, TarEntry
from drivers.tar.parser import TarParser
from drivers.tar.sparse import SparseContent
from shared.errors import IcsError
from tests.integration.estargz.oracle import ask

ARCHIVES = 1500
NAMES = (
    b"a",
    b"./a",
    b"/a",
    b"a/",
    b"d/",
    b"d//x",
    b"d/../x",
    b"",
    b"\xff\xfe",
    b"caf\xc3\xa9",
    b"n" * 99 + b"/",
    b"l",
)
KINDS = b"0" * 8 + b"\0" * 3 + b"111222555" + b"34677SVDMA"
MAGICS = (b"ustar\x0000",) * 5 + (b"ustar  \0",) * 3 + (bytes(8), b"ustar\x0001")
PREFIXES = (b"",) * 6 + (b"d", b"pre/fix", b"/abs", b"14524770400\0" + b"1\0", b"14524770400\0" + b"x", b"caf\xc3\xa9")
KEYS = (
    *(b"path", b"linkpath", b"size", b"uid", b"gid", b"uname", b"gname", b"mtime", b"comment", b"hdrcharset"),
    *(b"SCHILY.xattr.user.k", b"SCHILY.xattr.noprefix", b"SCHILY.xattr.", b"LIBARCHIVE.xattr.user.z", b"SCHILY.dev"),
    *(b"GNU.sparse.name", b"GNU.sparse.map", b"GNU.sparse.size", b"GNU.sparse.numblocks", b"GNU.sparse.major"),
)
VALUES = (
    b"",
    b"0",
    b"1",
    b"3",
    b"17000000.5",
    b"-1.5",
    b"d/y",
    b"x" * 300,
    b"4294967296",
    b"0,1",
    b"-1",
    b"n" * 99 + b"/x",
)


class Archives:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def archive(self) -> bytes:
        entries = (self._entry() for _ in range(self._rng.randint(1, 4)))
        return b"".join(entries) + bytes(self._rng.choice((1024, 1024, 0)))

    def _entry(self) -> bytes:
        rng = self._rng
        out = b""
        if rng.random() < 0.3:
            out += self._extended(b"g" if rng.random() < 0.1 else b"x")
        if rng.random() < 0.1:
            out += self._block(b"././@LongLink", rng.choice((b"L", b"K")), rng.choice(NAMES) * 2 + b"\0", b"ustar  \0")
        kind = bytes((rng.choice(KINDS),))
        content = rng.choice((b"", b"x", b"y" * 511, b"z" * 5000)) if kind in b"0\0007S" else b""
        return out + self._block(rng.choice(NAMES), kind, content, rng.choice(MAGICS), rng.choice(PREFIXES))

    def _extended(self, kind: bytes) -> bytes:
        rng = self._rng
        return self._block(
            b"PaxHeaders/x",
            kind,
            b"".join(record(rng.choice(KEYS), rng.choice(VALUES)) for _ in range(rng.randint(1, 3))),
            b"ustar\x0000",
        )

    def _block(self, name: bytes, kind: bytes, content: bytes, magic: bytes, prefix: bytes = b"") -> bytes:
        rng = self._rng
        link = rng.choice(NAMES) if kind in b"12" else b""
        owner = rng.choice(
            (b"0001750\0", b"   1750 ", b"\x80\0\0\0\0\x0f\x42\x40", b"\xff" * 8, b"1_0\0\0\0\0\0", bytes(8))
        )
        time = rng.choice((b"14524770400\0", b" 5          ", b"\xff" * 12))
        head = bytearray(512)
        for at, field in (
            *((0, name), (100, b"0000644\0"), (108, owner), (116, b"0000007\0"), (124, b"%011o\0" % len(content))),
            *((136, time), (148, b" " * 8), (156, kind), (157, link), (257, magic), (265, b"root"), (297, b"\xff\xe9")),
            *((329, b"0000001\0"), (337, b"0000003\0"), (345, prefix)),
        ):
            head[at : at + len(field)] = field
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head) + content + bytes(-len(content) % 512)


def record(key: bytes, value: bytes) -> bytes:
    body = b" %b=%b\n" % (key, value)
    size = len(body) + len(str(len(body) + 2))
    return b"%d" % size + body if len(str(size)) + len(body) == size else b"%d" % (size + 1) + body


def read(data: bytes) -> list[dict[str, Any]] | None:
    """None: refused."""
    parser = TarParser(LayerLimits())
    found: list[tuple[TarEntry, Any, SparseContent | None]] = []
    pieces: Iterable[memoryview]
    try:
        for event in parser.feed(data):
            if isinstance(event, TarEntry):
                content, sparse = hashlib.sha256(), SparseContent(event.sparse) if event.sparse else None
                found.append((event, content, sparse))
                pieces = sparse.feed(memoryview(b"")) if sparse else ()
            else:
                _, content, sparse = found[-1]
                pieces = sparse.feed(event) if sparse else (event,)
            for piece in pieces:
                content.update(piece)
        parser.finish()
    except IcsError:
        return None
    return [told(entry, content.hexdigest()) for entry, content, _ in found]


def told(entry: TarEntry, content: str) -> dict[str, Any]:
    if entry.type == GLOBAL_PAX:
        return {"Type": "g"}
    texts = {"Name": entry.name, "Link": entry.link, "User": entry.user, "Group": entry.group}
    return {
        **{key: text.encode("utf-8", "surrogateescape") for key, text in texts.items()},
        "Type": entry.type.decode(),
        "Mode": entry.mode,
        "UID": entry.uid,
        "GID": entry.gid,
        "Time": (entry.mtime, entry.mtime_nsec),
        "Device": (entry.major, entry.minor) if entry.type in b"34" else (),
        "Xattrs": dict(entry.xattrs),
        "Content": content,
    }


def told_by_go(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["Type"] == "g":
        return {"Type": "g"}
    return {
        **{key: b64decode(entry[key] or "") for key in ("Name", "Link", "User", "Group")},
        **{key: entry[key] for key in ("Type", "Mode", "UID", "GID", "Content")},
        "Time": (entry["Seconds"], entry["Nanoseconds"]),
        "Device": (entry["Major"], entry["Minor"]) if entry["Type"] in "34" else (),
        "Xattrs": {key: b64decode(value or "") for key, value in entry["Xattrs"].items()},
    }


def test_random_headers_and_records(tmp_path: Path) -> None:
    """Where either refuses an archive nothing is compared: some faults, such as a cut record at the end, Go lets pass."""
    archives = Archives(1)
    paths = []
    for number in range(ARCHIVES):
        paths.append(tmp_path / f"{number:05}")
        paths[-1].write_bytes(archives.archive())
    compared = 0
    for path, found in zip(paths, ask("entries", *paths)["archives"], strict=True):
        ours = read(path.read_bytes())
        if found["Error"] or ours is None:
            continue
        compared += len(ours)
        assert ours == [told_by_go(entry) for entry in found["Entries"] or ()], path.read_bytes()
    assert compared > ARCHIVES / 2
