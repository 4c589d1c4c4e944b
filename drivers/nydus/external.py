"""``builder_path``: an operator's own ``nydus-image`` builds each layer and merges, through files in ``work_dir``."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

from drivers.api import Content
from drivers.limits import LayerLimits
from drivers.nydus import media
from drivers.nydus.bootstrap_layer import BootstrapLayer
from drivers.nydus.feed import in_own_thread
from drivers.nydus.image import validated_layer
from drivers.nydus.layer_source import Layer, read_layer
from drivers.nydus.options import NydusOptions
from drivers.nydus.parameters import Parameters
from drivers.nydus.rafs_v6.encode import encode_bootstrap
from drivers.nydus.rafs_v6.layout import Compressor
from drivers.nydus.tar_walk import open_inflated
from drivers.tar import TarEntry, TarParser
from shared.errors import PermanentError, TransientError, UnsupportedError
from shared.exhausted import LOCAL_RESOURCE, exhausted, local_resource
from shared.oci.descriptor import Descriptor

_VERSION: Final = re.compile(r"Version:\s*(v\S+)")
_SYSTEM_ERROR: Final = re.compile(r"\(os error (\d+)\)")
"""How programs in Rust tell an errno."""
_COMPRESSOR_NAMES: Final = {Compressor.ZSTD: "zstd", Compressor.LZ4_BLOCK: "lz4_block", Compressor.NONE: "none"}
_PIECE: Final = 1 << 20
_STDERR_LIMIT: Final = 2000
_GRACE_SECONDS: Final = 5


class ExternalBuilder:
    """Runs ``nydus-image`` of :attr:`NydusOptions.builder_path`; every file is gone when a call ends."""

    def __init__(self, option: NydusOptions, limits: LayerLimits) -> None:
        self._limits = limits
        self._path = option.builder_path or ""
        self._work_dir = option.work_dir

    async def version(self) -> str | None:
        self._check_work_dir()
        try:
            output = await self._run("--version")
        except PermanentError as error:
            raise TransientError(error.message, code="builder_unavailable") from error
        found = _VERSION.search(output)
        return found[1] if found else None

    async def convert_layer(
        self, layer: Descriptor, content: Content, parameters: Parameters
    ) -> tuple[Descriptor, Layer]:
        with self._folder() as name:
            folder = Path(name)
            tar, blob = folder / "layer.tar", folder / "blob"
            async with open_inflated(layer, content, self._limits) as pieces:
                await in_own_thread(_write_file, tar, pieces, self._limits)
            await self._create(tar, blob, parameters)
            tar.unlink()
            async with content.create() as writer:
                async for piece in _read_file(blob):
                    await writer.write(piece)
                descriptor = await writer.commit(media.BLOB_LAYER, {media.NYDUS_BLOB: "true"})

            async def read_range(_: Descriptor, start: int, length: int) -> bytes:
                return await asyncio.to_thread(_read_at, blob, start, length)

            return descriptor, await read_layer(descriptor, read_range)

    async def _create(self, tar: Path, blob: Path, parameters: Parameters) -> None:
        await self._run(
            *("create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", str(blob)),
            *("--whiteout-spec", "none", "--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta"),
            *("--features", "blob-toc", "--compressor", _COMPRESSOR_NAMES[parameters.compressor]),
            *("--chunk-size", hex(parameters.chunk_size), str(tar)),
            patterns=("/",),
        )

    async def merge(self, layers: Sequence[Layer], parameters: Parameters) -> BootstrapLayer:
        with self._folder() as name:
            folder = Path(name)
            sources = []
            for position, layer in enumerate(layers):
                # The builder takes a blob's id from the file's name, and equal layers share one.
                source = folder / str(position) / layer.digest.hex
                source.parent.mkdir()
                await asyncio.to_thread(source.write_bytes, await asyncio.to_thread(encode_bootstrap, layer.bootstrap))
                sources.append(str(source))
            merged = folder / "merged.boot"
            await self._run(
                *(
                    "merge",
                    "--log-level",
                    "warn",
                    "--prefetch-policy",
                    "fs",
                    "--output-json",
                    str(folder / "output.json"),
                ),
                *("--bootstrap", str(merged), *sources),
                patterns=parameters.prefetch_patterns,
            )
            bootstrap = await asyncio.to_thread(merged.read_bytes)
        return await validated_layer(bootstrap, layers)

    def _check_work_dir(self) -> None:
        if self._work_dir is None or os.access(self._work_dir, os.W_OK | os.X_OK):
            return
        read_only = Path(self._work_dir).exists() and os.statvfs(self._work_dir).f_flag & os.ST_RDONLY
        refused = OSError(errno.EROFS, os.strerror(errno.EROFS), self._work_dir) if read_only else OSError()
        raise local_resource(refused) or TransientError(
            f"work_dir {self._work_dir} cannot be written to", code="work_dir_unwritable"
        )

    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        try:
            return tempfile.TemporaryDirectory(prefix="ics-nydus-", dir=self._work_dir)
        except OSError as error:
            raise local_resource(error) or TransientError(
                f"no temporary directory in work_dir: {error.strerror}", code="work_dir_unwritable"
            ) from error

    async def _run(self, *arguments: str, patterns: Sequence[str] = ()) -> str:
        """Standard output. Killed with the task; a failure names what the builder said last."""
        try:
            process = await asyncio.create_subprocess_exec(
                self._path,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise local_resource(error) or TransientError(
                f"builder_path {self._path} does not run: {error.strerror}", code="builder_unavailable"
            ) from error
        try:
            stdin = "".join(f"{pattern}\n" for pattern in patterns).encode("utf-8", "surrogateescape")
            output, errors = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                process.kill()
                async with asyncio.timeout(_GRACE_SECONDS):
                    await process.wait()
        if process.returncode:
            said = errors.decode("utf-8", "replace").strip() or output.decode("utf-8", "replace").strip()
            message = f"nydus-image {arguments[0]} ended with {process.returncode}: {said[:_STDERR_LIMIT]}"
            if process.returncode < 0:
                raise TransientError(message, code="builder_killed")
            raise _out_of_resources(said, message) or PermanentError(message, code="builder_failed")
        return output.decode("utf-8", "replace")


def _out_of_resources(said: str, message: str) -> TransientError | None:
    """Whether the builder ended for want of something on this machine: it writes to ``work_dir`` too."""
    for number in map(int, _SYSTEM_ERROR.findall(said)):
        if (resource := exhausted(OSError(number, ""))) is not None:
            return TransientError(message, code=LOCAL_RESOURCE, resource=resource, errno=number)
    return None


def _write_file(path: Path, pieces: Iterator[bytes], limits: LayerLimits) -> None:
    """Raises UnsupportedError: the builder would silently take what is stored of a sparse file (PAX) for its content."""
    parser = TarParser(limits)
    with path.open("wb") as file:
        for piece in pieces:
            for event in parser.feed(piece):
                if isinstance(event, TarEntry) and event.sparse is not None:
                    raise UnsupportedError(
                        f"{event.name[:200]!r} is stored as a sparse file, which nydus-image cannot read: "
                        "convert without builder_path"
                    )
            file.write(piece)
    parser.finish()


async def _read_file(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def _read_at(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)
