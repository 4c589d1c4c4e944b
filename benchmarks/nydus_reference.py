"""Hold the native builder to the reference: ``nydus-image`` and, over FUSE from a registry, ``nydusd``.

Needs root, umoci and docker-registry.

    NYDUS_IMAGE=.../nydus-image NYDUSD=.../nydusd python benchmarks/nydus_reference.py LAYER.tar [LAYER.tar ...]

The layers (plain tars, lowest first) become one image. Then, each line of output being one verdict:

- decoding and encoding each layer's bootstrap as nydus-image makes it gives the same bytes;
- each layer's bootstrap equals byte for byte the one that nydus-image makes of the same tar, but for its chunk checksums;
- merging nydus-image's layers gives its own merged bootstrap, byte for byte;
- with ``builder_path`` the driver gives an image that ``ics check`` accepts;
- ``nydus-image check`` accepts the merged bootstrap, ``unpack`` gives back the tree that umoci extracts from the source;
- ``nydusd`` mounts the image from a registry, validating every chunk, and shows that tree;
- with ``oci_ref``, both say the same of each gzip layer's blob and chunks, merging nydus-image's layers gives its own merged
  bootstrap, and ``check`` and ``nydusd`` take ours as above.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.nydus_layer import inline_bootstrap
from drivers.nydus import media
from drivers.nydus.check import check_image
from drivers.nydus.image import merged_bootstrap
from drivers.nydus.layer_source import Layer, read_layer
from drivers.nydus.merge import merge
from drivers.nydus.options import NydusOptions
from drivers.nydus.rafs_v6.decode import decode_bootstrap
from drivers.nydus.rafs_v6.encode import MARKS, encode_bootstrap
from drivers.nydus.rafs_v6.layout import CHUNK, EXTENDED, EXTENDED_OFFSET, ChunkFlags, Flags
from drivers.nydus.tree import Mark, walk
from drivers.testing.content import Repository
from drivers.testing.images import add_image
from drivers.testing.store import MemoryStore
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest
from shared.oci.reference import parse_reference
from tests.images.trees import TIME, Facts, differences, tree_facts
from tests.integration.nydus.comparing import convert
from tests.integration.nydus.umoci import unpack
from tests.servers.registry import RegistryServer, docker_registry
from tests.unit.drivers.nydus.bootstraps import bootstrap_of

_REPOSITORY = "reference/image"
_failures = 0


def verdict(name: str, problems: list[str]) -> None:
    global _failures  # noqa: PLW0603 - the exit status
    _failures += bool(problems)
    print(f"{'FAIL' if problems else 'ok':5}{name}", *problems[:10], sep="\n     " if problems else "")


def nydus_image(*arguments: str, stdin: bytes = b"/\n") -> None:
    command = [os.environ["NYDUS_IMAGE"], *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if result.returncode:
        raise RuntimeError(f"nydus-image {arguments[0]}: {result.stderr.decode(errors='replace')[-1000:]}")


def comparable(bootstrap: bytes) -> bytes:
    """Without what differs on purpose.

    nydus-image adds CRC-32C to its chunk records; the native builder leaves them out, so that digests stay in charge. The
    native builder always announces attributes, as nydus-image does when it merges, and marks directories that a tar only
    implied.
    """
    masked = bytearray(bootstrap.replace(MARKS[Mark.IMPLIED], MARKS[Mark.NONE]))
    flags, _, _, _, table, size, _, _, _, _ = EXTENDED.unpack_from(bootstrap, EXTENDED_OFFSET)
    masked[EXTENDED_OFFSET : EXTENDED_OFFSET + 8] = int(flags | Flags.HAS_XATTR).to_bytes(8, "little")
    for at in range(table, table + size, CHUNK.size):
        masked[at + 36] &= ~ChunkFlags.HAS_CRC32 & 0xFF
        masked[at + 76 : at + 80] = bytes(4)
    return bytes(masked)


async def compare_bootstraps(tars: list[bytes], folder: Path) -> None:
    """Uncompressed chunks: sizes and offsets then depend on nobody's version of zstd."""
    option = NydusOptions(compressor="none")
    layers = []
    files = []
    for number, tar in enumerate(tars):
        (folder / "in.tar").write_bytes(tar)
        blob = folder / f"{number}.blob"
        nydus_image(
            *(
                "create",
                "--log-level",
                "warn",
                "--prefetch-policy",
                "fs",
                "--blob",
                str(blob),
                "--whiteout-spec",
                "none",
            ),
            *("--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta", "--features", "blob-toc"),
            *("--compressor", "none", str(folder / "in.tar")),
        )
        theirs = blob.read_bytes()
        repository = Repository()
        target, image = await convert(repository, add_image(repository, [tar], compression="none"), option)
        ours = target.blobs[image.layers[0].digest]
        same = comparable(inline_bootstrap(theirs)) == comparable(inline_bootstrap(ours))
        verdict(f"layer {number}: bootstrap equals nydus-image's", [] if same else ["differs"])
        plain = inline_bootstrap(theirs)
        again = encode_bootstrap(decode_bootstrap(plain)) == plain
        verdict(f"layer {number}: decoding and encoding nydus-image's bootstrap", [] if again else ["differs"])
        name = hashlib.sha256(theirs).hexdigest()
        file = folder / str(number) / name
        file.parent.mkdir()
        file.write_bytes(inline_bootstrap(theirs))
        files.append(str(file))
        layers.append(decode_bootstrap(inline_bootstrap(theirs), name))
    merged = folder / "merged.boot"
    nydus_image(
        *("merge", "--log-level", "warn", "--prefetch-policy", "fs", "--output-json", str(folder / "out.json")),
        *("--bootstrap", str(merged), *files),
    )
    first = layers[0]
    mine = merge(
        layers,
        chunk_size=first.chunk_size,
        compressor=first.compressor,
        digester=first.digester,
        prefetch_patterns=["/"],
    )
    verdict(
        "merged bootstrap equals nydus-image's", [] if encode_bootstrap(mine) == merged.read_bytes() else ["differs"]
    )


def timed(facts: Facts, bootstrap: bytes) -> Facts:
    """Without the times that the bootstrap has as 0.

    nydusd shows the time of its mount for them; and a directory that a tar only implies, 0 here, has the time of the extraction
    in umoci's tree.
    """
    untimed = {path for path, inode in walk(decode_bootstrap(bootstrap).root) if not inode.mtime}
    return {path: (*fact[:TIME], 0, *fact[TIME + 1 :]) if path in untimed else fact for path, fact in facts.items()}


def without_special_files(tar: bytes) -> bytes:
    """``nydus-image unpack`` panics at the first device or fifo of any RAFS v6 image, its own included."""
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(tar)) as old,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            if not (member.ischr() or member.isblk() or member.isfifo()):
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return buffer.getvalue()


async def check_unpacked(tars: list[bytes], folder: Path) -> None:
    repository = Repository()
    source = add_image(repository, [without_special_files(tar) for tar in tars])
    target, image = await convert(repository, source, NydusOptions())
    expected = tree_facts(unpack(repository, source, folder / "umoci-plain"))
    blobs = folder / "blobs"
    blobs.mkdir()
    for layer in image.layers[:-1]:
        (blobs / layer.digest.hex).write_bytes(target.blobs[layer.digest])
    boot = folder / "plain.boot"
    boot.write_bytes(bootstrap_of(target, image))
    nydus_image("unpack", "-B", str(boot), "-D", str(blobs), "--output", str(folder / "out.tar"))
    tree = folder / "unpacked"
    tree.mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "-xpf", str(folder / "out.tar"), "-C", str(tree)],
        check=True,
        capture_output=True,
    )
    found = timed(tree_facts(tree), boot.read_bytes())
    expected = timed(expected, boot.read_bytes())
    verdict(f"nydus-image unpack gives the source's {len(expected)} entries", differences(expected, found))


async def check_external(tars: list[bytes], folder: Path) -> None:
    """The driver with ``builder_path``, its result read back by our own checker."""
    repository = Repository()
    option = NydusOptions(builder_path=os.environ["NYDUS_IMAGE"], work_dir=str(folder))
    target, theirs = await convert(repository, add_image(repository, tars), option)
    target.tags["1"] = target.add_manifest(theirs).digest
    store = MemoryStore({"registry.test/source": repository, "registry.test/target": target})
    report = await check_image(store, parse_reference("registry.test/target:1"))
    # nydus-image gives a root that a tar only implies mode 0755, owner 0 and time 0, over what lower layers say.
    problems = [str(finding) for finding in report.findings if finding.where != "/"]
    if not report.compared:
        problems.append("was not compared with its source")
    verdict(f"ics check accepts nydus-image's image: {report.entries} entries, {report.chunks} chunks", problems)


def push(server: RegistryServer, data: bytes, digest: str) -> None:
    url = f"http://{server.host}/v2/{_REPOSITORY}/blobs/uploads/"
    with urllib.request.urlopen(urllib.request.Request(url, method="POST")) as started:
        location = started.headers["Location"]
    separator = "&" if "?" in location else "?"
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{location}{separator}digest={digest}", data, headers, method="PUT")
    urllib.request.urlopen(request).close()


@contextlib.contextmanager
def nydusd(boot: Path, server: RegistryServer, folder: Path) -> Iterator[Path]:
    """Every chunk is checked against its digest (``validate``)."""
    (folder / "cache").mkdir()
    mountpoint = folder / "fuse"
    mountpoint.mkdir()
    config = {
        "device": {
            "backend": {"type": "registry", "config": {"scheme": "http", "host": server.host, "repo": _REPOSITORY}},
            "cache": {"type": "blobcache", "validate": True, "config": {"work_dir": str(folder / "cache")}},
        },
        "mode": "direct",
        "digest_validate": False,
        "enable_xattr": True,
        "fs_prefetch": {"enable": True, "threads_count": 2, "merging_size": 1 << 20},
    }
    (folder / "config.json").write_text(json.dumps(config))
    command = [os.environ["NYDUSD"], "--rlimit-nofile", "0", "-C", str(folder / "config.json")]
    with (folder / "nydusd.log").open("wb") as log:
        process = subprocess.Popen([*command, "-B", str(boot), "-M", str(mountpoint)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 10
        while not mountpoint.is_mount():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "nydusd.log").read_text()[-2000:])
            time.sleep(0.05)
        yield mountpoint
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=False, capture_output=True)
        process.terminate()
        process.wait(10)


def reference_by_nydus_image(layer: bytes, folder: Path) -> bytes:
    (folder / "layer.tar.gz").write_bytes(layer)
    blob = folder / "reference.blob"
    nydus_image(
        *("create", "--log-level", "warn", "--type", "targz-ref", "--blob-inline-meta", "--features", "blob-toc"),
        *("--blob", str(blob), str(folder / "layer.tar.gz")),
    )
    return blob.read_bytes()


async def read_reference(blob: bytes, original: Digest) -> Layer:
    async def read_range(_: Descriptor, start: int, length: int) -> bytes:
        return blob[start : start + length]

    descriptor = Descriptor(media.BLOB_LAYER, Digest.of(blob), len(blob), {media.NYDUS_REF: str(original)})
    return await read_layer(descriptor, read_range)


async def compare_references(
    repository: Repository, source: ImageManifest, target: Repository, image: ImageManifest, folder: Path
) -> None:
    """The two choose other places to begin at in the gzip stream, so tables and blobs are not the same bytes."""
    theirs = []
    for number, original in enumerate(source.layers):
        layer = await read_reference(
            reference_by_nydus_image(repository.blobs[original.digest], folder), original.digest
        )
        ours = await read_reference(target.blobs[image.layers[number].digest], original.digest)
        problems = [] if ours.chunk_digests == layer.chunk_digests else ["the chunks differ"]
        if ours.own is not None and layer.own is not None:
            problems += [
                f"{name}: {getattr(ours.own, name)}, nydus-image says {getattr(layer.own, name)}"
                for name in (
                    "chunk_count",
                    "compressor",
                    "digester",
                    "features",
                    "compressed_size",
                    "uncompressed_size",
                )
                if getattr(ours.own, name) != getattr(layer.own, name)
            ]
        verdict(f"oci_ref: layer {number} as nydus-image describes it", problems)
        theirs.append(layer)
    files: list[str] = []
    for layer in theirs:
        file = folder / f"ref-{len(files)}" / layer.blob_id
        file.parent.mkdir()
        file.write_bytes(encode_bootstrap(layer.bootstrap))
        files.append(str(file))
    merged = folder / "reference.boot"
    records = [layer.own for layer in theirs]
    nydus_image(
        *("merge", "--log-level", "warn", "--prefetch-policy", "fs", "--output-json", str(folder / "ref.json")),
        *("--blob-digests", ",".join(layer.digest.hex for layer in theirs)),
        *("--blob-toc-digests", ",".join((record.toc_digest if record else bytes(32)).hex() for record in records)),
        *("--blob-sizes", ",".join(str(record.meta_size if record else 1) for record in records)),
        *("--bootstrap", str(merged), *files),
    )
    parameters = NydusOptions(oci_ref=True, share_chunks=False).parameters
    same = merged_bootstrap(theirs, parameters) == merged.read_bytes()
    verdict("oci_ref: merged bootstrap equals nydus-image's", [] if same else ["differs"])


def check_mounted(boot: Path, expected: Facts, server: RegistryServer, folder: Path, what: str) -> None:
    """The blobs are in the registry."""
    with nydusd(boot, server, folder) as mountpoint:
        found = timed(tree_facts(mountpoint), boot.read_bytes())
        problems = differences(timed(expected, boot.read_bytes()), found)
    verdict(f"{what}nydusd shows the source's {len(expected)} entries over FUSE", problems)


async def check_references(
    repository: Repository, source: ImageManifest, expected: Facts, server: RegistryServer, folder: Path
) -> None:
    target, image = await convert(repository, source, NydusOptions(oci_ref=True))
    await compare_references(repository, source, target, image, folder)
    boot = folder / "image.boot"
    boot.write_bytes(bootstrap_of(target, image))
    nydus_image("check", str(boot))
    verdict("oci_ref: nydus-image check accepts the image", [])
    for blobs, layers in ((repository.blobs, source.layers), (target.blobs, image.layers)):
        for layer in layers:
            push(server, blobs[layer.digest], layer.digest)
    check_mounted(boot, expected, server, folder, "oci_ref: ")


async def main() -> int:
    tars = [Path(name).read_bytes() for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await compare_bootstraps(tars, folder)
        repository = Repository()
        source = add_image(repository, tars)
        target, image = await convert(repository, source, NydusOptions())
        expected = tree_facts(unpack(repository, source, folder / "umoci"))
        boot = folder / "image.boot"
        boot.write_bytes(bootstrap_of(target, image))
        nydus_image("check", str(boot))
        verdict("nydus-image check accepts the image", [])
        await check_unpacked(tars, folder)
        await check_external(tars, folder)
        with docker_registry(folder / "registry") as server:
            for layer in image.layers:
                push(server, target.blobs[layer.digest], layer.digest)
            check_mounted(boot, expected, server, folder, "")
            references = folder / "references"
            references.mkdir()
            await check_references(repository, source, expected, server, references)
    return min(_failures, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
