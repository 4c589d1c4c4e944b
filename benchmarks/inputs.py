"""Real layers, made on the spot and kept: Debian, Python and Node installations, 100,000 small files, a few huge ones."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench

MIB = 1 << 20
PIP = ("numpy", "matplotlib", "aiohttp", "fastapi", "pydantic", "sqlalchemy", "django", "grpcio")
NPM = ("next", "webpack", "typescript", "eslint", "@babel/preset-env", "jest")
LAYERS = ("base", "python", "node", "small", "huge")
SMALL_FILES = 100_000
TEN = 10
_TAR = ("tar", "--sort=name", "--mtime=@1700000000", "--owner=0", "--group=0", "--numeric-owner")


@dataclass(frozen=True)
class Layer:
    """A layer as a registry holds it (gzip, level 6) and its plain tar."""

    name: str
    tar: Path
    packed: Path
    diff_id: str
    digest: str

    @property
    def tar_size(self) -> int:
        return self.tar.stat().st_size

    @property
    def size(self) -> int:
        return self.packed.stat().st_size


def layer(bench: Bench, name: str) -> Layer:
    """One of :data:`LAYERS`, made where it is not there yet."""
    return kept(bench, name, _quick(name) if bench.quick else _MAKERS[name])


def kept(bench: Bench, name: str, make: Callable[[Path], None]) -> Layer:
    """The tar that ``make`` writes, packed as ``gzip -6`` does."""
    folder = bench.cache / ("quick" if bench.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    tar, packed = folder / f"{name}.tar", folder / f"{name}.tar.gz"
    if not packed.exists():
        bench.say(f"making the input {name}")
        make(tar)
        part = folder / f"{name}.part"
        with part.open("wb") as out:
            subprocess.run(["gzip", "-6", "-n", "-c", str(tar)], check=True, stdout=out)
        part.rename(packed)
    return Layer(name, tar, packed, _digest(tar), _digest(packed))


def ten_parts(bench: Bench) -> list[Layer]:
    """The files of the Python and Node layers, dealt out to ten layers that share nothing."""
    sources = [layer(bench, name) for name in ("python", "node")]
    return [kept(bench, f"part-{number}", partial(_deal, sources, number)) for number in range(TEN)]


def own_layers(bench: Bench, count: int) -> list[Layer]:
    """What distinguishes images with a common base: an application of 2,000 files, about 3 MB each layer."""
    files = 100 if bench.quick else 2000
    return [
        kept(bench, f"own-{number}", partial(write_small, files=files, seed=1000 + number, top=f"srv/app{number}"))
        for number in range(count)
    ]


def tar_of_entries(bench: Bench, count: int) -> Path:
    """A plain tar of ``count`` small files, kept."""
    folder = bench.cache / ("quick" if bench.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    tar = folder / f"entries-{count}.tar"
    if not tar.exists():
        bench.say(f"making a tar of {count:,} files")
        part = tar.with_suffix(".part")
        write_small(part, count)
        part.rename(tar)
    return tar


def facts(made: Layer) -> dict[str, int]:
    """Bytes and entries, for the report."""
    with tarfile.open(made.tar) as archive:
        entries = sum(1 for _ in archive)
    return {"tar": made.tar_size, "gzip": made.size, "entries": entries}


def write_small(tar: Path, files: int, *, seed: int = 5, top: str = "srv/data") -> None:
    """Files of 100 to 1,800 bytes, fifty a directory."""
    with tar.open("wb") as out:
        out.writelines(small_files(files, seed=seed, top=top))


def small_files(files: int, *, seed: int = 5, top: str = "srv/data") -> Iterator[bytes]:
    """The tar of :func:`write_small`, about 64 KiB a piece."""
    chance = random.Random(seed)
    words = [f"{chance.getrandbits(40):x}".encode() for _ in range(3000)]
    piece = bytearray()
    for number in range(files):
        folder = f"{top}/{number // 50}"
        if number % 50 == 0:
            directory = tarfile.TarInfo(folder)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            piece += directory.tobuf()
        data = b" ".join(chance.choices(words, k=chance.randint(10, 180)))
        entry = tarfile.TarInfo(f"{folder}/{number}.json")
        entry.size, entry.mtime = len(data), 1_700_000_000 + number % 100
        piece += entry.tobuf() + data + bytes(-len(data) % 512)
        if len(piece) >= 64 << 10:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + bytes(1024)


def stream(size: int) -> Iterator[bytes]:
    """A tar of about ``size`` bytes that exists nowhere as a whole: files of 10 kB and of 64 MiB, half noise, half zeros."""
    block = random.Random(1).randbytes(MIB // 2) + bytes(MIB // 2)
    left, number = size, 0
    while left > 0:
        length = 64 * MIB if number % 2000 == 1999 else 10_240
        entry = tarfile.TarInfo(f"data/{number}")
        entry.size = length
        yield entry.tobuf()
        for start in range(0, length, MIB):
            yield block[: min(MIB, length - start)]
        left -= length + 512
        number += 1
    yield bytes(1024)


def _base(tar: Path) -> None:
    """A Debian minbase."""
    _run("mmdebstrap", "--variant=minbase", "--format=tar", "--quiet", "bookworm", str(tar))


def _python(tar: Path) -> None:
    """Python packages, byte-compiled."""
    tree = tar.with_suffix(".tree")
    target = tree / "usr/lib/python3/dist-packages"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--root-user-action=ignore")
    _run(*pip, "--compile", "--target", str(target), *PIP)
    _pack(tree, tar)


def _node(tar: Path) -> None:
    """A node_modules tree."""
    tree = tar.with_suffix(".tree")
    (tree / "app").mkdir(parents=True, exist_ok=True)
    _run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tree / "app"), *NPM)
    _pack(tree, tar)


def _small(tar: Path) -> None:
    write_small(tar, SMALL_FILES)


def _huge(tar: Path) -> None:
    _write_huge(tar, 128)


def _write_huge(tar: Path, mebibytes: int) -> None:
    """Three files, half of each noise, half text."""
    chance = random.Random(6)
    words = [f"{chance.getrandbits(40):x} ".encode() for _ in range(3000)]
    with tarfile.open(tar, "w") as archive:
        for number in range(3):
            pieces = [chance.randbytes(MIB) if piece % 2 else _text(chance, words) for piece in range(mebibytes)]
            entry = tarfile.TarInfo(f"models/{number}.bin")
            entry.size = mebibytes * MIB
            archive.addfile(entry, io.BytesIO(b"".join(pieces)))


def _text(chance: random.Random, words: list[bytes]) -> bytes:
    return b"".join(chance.choices(words, k=130_000))[:MIB].ljust(MIB, b" ")


def _quick(name: str) -> Callable[[Path], None]:
    """Something small of the same kind, made without a network."""
    if name == "huge":
        return lambda tar: _write_huge(tar, 2)
    return lambda tar: write_small(tar, 2000 if name == "small" else 600, seed=len(name), top=f"srv/{name}")


def _deal(sources: list[Layer], number: int, tar: Path) -> None:
    """Every tenth file, and every directory; links may point into another part, which no converter minds."""
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as part:
        for source in sources:
            with tarfile.open(source.tar) as archive:
                files = 0
                for member in archive:
                    if member.isdir():
                        part.addfile(member)
                    elif member.isreg():
                        if files % TEN == number:
                            part.addfile(member, archive.extractfile(member))
                        files += 1


def _pack(tree: Path, tar: Path) -> None:
    _run(*_TAR, "-cf", str(tar), "-C", str(tree), *sorted(path.name for path in tree.iterdir()))
    shutil.rmtree(tree)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


_MAKERS: Mapping[str, Callable[[Path], None]] = {
    "base": _base,
    "python": _python,
    "node": _node,
    "small": _small,
    "huge": _huge,
}
