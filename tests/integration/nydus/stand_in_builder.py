"""Stands in for ``nydus-image``: the same command line, strictly, with the native builder behind it.

``create`` and ``merge`` refuse any argument that differs from what nydus-snapshotter's own converter passes. A file named
``behaviour`` beside the installed script makes it ``fail``, find the disk ``full``, ``hang`` or ``die``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from drivers.limits import LayerLimits
from drivers.nydus.feed import feeding
from drivers.nydus.merge import merge
from drivers.nydus.parameters import Parameters
from drivers.nydus.pipeline import LayerPipeline, Walk
from drivers.nydus.rafs_v6.decode import decode_bootstrap
from drivers.nydus.rafs_v6.encode import encode_bootstrap
from drivers.nydus.rafs_v6.layout import Compressor
from drivers.nydus.tar_walk import TarWalker
from drivers.testing.content import MemoryWriter, Repository


def install(folder: Path, behaviour: str = "") -> Path:
    """An executable in ``folder`` that runs this module."""
    (folder / "behaviour").write_text(behaviour)
    script = folder / "nydus-image"
    root = Path(__file__).parents[3]
    script.write_text(
        f'#!/bin/sh\ncd {root} && exec {sys.executable} -m tests.integration.nydus.stand_in_builder {folder} "$@"\n'
    )
    script.chmod(0o755)
    return script


def take(arguments: list[str], *expected: str) -> None:
    found = arguments[: len(expected)]
    if tuple(found) != expected:
        raise SystemExit(f"expected {expected}, got {found}")
    del arguments[: len(expected)]


def value(arguments: list[str], flag: str) -> str:
    take(arguments, flag)
    return arguments.pop(0)


def create(arguments: list[str]) -> None:
    take(arguments, "--log-level", "warn", "--prefetch-policy", "fs")
    blob = Path(value(arguments, "--blob"))
    take(arguments, "--whiteout-spec", "none", "--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta")
    take(arguments, "--features", "blob-toc")
    compressor = Compressor[value(arguments, "--compressor").upper()]
    chunk_size = int(value(arguments, "--chunk-size"), 16)
    (tar,) = arguments
    if sys.stdin.read() != "/\n":
        raise SystemExit("expected the prefetch pattern / on standard input")
    asyncio.run(build(Path(tar), blob, Parameters(compressor=compressor, chunk_size=chunk_size)))


async def build(tar: Path, blob: Path, parameters: Parameters) -> None:
    repository = Repository()
    writer = MemoryWriter(repository)
    data = tar.read_bytes()

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    with ThreadPoolExecutor(1) as pool:
        async with feeding(pieces()) as feed:
            walk = Walk(
                lambda sink: TarWalker(sink.put, parameters.chunk_size).walk(feed.read(), LayerLimits()), feed.close
            )
            await LayerPipeline(parameters, pool, in_flight=4).run(walk, writer)
    descriptor = await writer.commit("")
    blob.write_bytes(repository.blobs[descriptor.digest])


def merge_files(arguments: list[str]) -> None:
    take(arguments, "--log-level", "warn", "--prefetch-policy", "fs")
    output = Path(value(arguments, "--output-json"))
    target = Path(value(arguments, "--bootstrap"))
    layers = [decode_bootstrap(Path(source).read_bytes(), Path(source).name) for source in arguments]
    last = layers[-1]
    merged = merge(
        layers,
        chunk_size=last.chunk_size,
        compressor=last.compressor,
        digester=last.digester,
        prefetch_patterns=sys.stdin.read().split(),
    )
    target.write_bytes(encode_bootstrap(merged))
    output.write_text(json.dumps({"blobs": [blob.id for blob in merged.blobs]}))


def main() -> None:
    folder, command, *arguments = sys.argv[1:]
    behaviour = (Path(folder) / "behaviour").read_text()
    if command == "--version":
        print("Version: \tv2.4.4\nGit Commit: \t0")
    elif behaviour == "fail":
        raise SystemExit("Error: build failed")
    elif behaviour == "full":
        raise SystemExit("Error: failed to dump blob: No space left on device (os error 28)")
    elif behaviour == "hang":
        (Path(folder) / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    elif behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif command == "create":
        create(arguments)
    elif command == "merge":
        merge_files(arguments)
    else:
        raise SystemExit(f"unknown command {command}")


if __name__ == "__main__":
    main()
