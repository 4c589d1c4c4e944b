"""A disk that is full: webhooks are refused while nothing can be kept, and accepted again once there is room."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.oci.reference import parse_reference
from tests.e2e.system import running_system
from tests.images.small import push_image, small_image


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Until nothing more fits."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as out:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                continue
    return filler


async def test_a_full_disk_under_the_broker_is_a_503_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        async with running_system(
            tmp_path / "system", "embedded", {"broker": {"data_dir": str(disk / "broker")}}
        ) as system:

            async def post(number: int) -> int:
                image, reference = small_image(number), parse_reference(f"{system.host}/library/app:v{number}")
                await push_image(system.client, reference, image)
                return (await system.webhook(str(reference), str(image.manifest.digest)))[0]

            assert await post(0) == 202
            filler = fill(disk)
            accepted, refused = [0], 0
            number = 0
            async with asyncio.timeout(120):
                while not refused:
                    number += 1
                    if await post(number) == 202:
                        accepted.append(number)
                    else:
                        refused += 1
            filler.unlink()
            async with asyncio.timeout(120):
                while await post(number) != 202:
                    await asyncio.sleep(0.5)
            accepted.append(number)
            for each in accepted:
                await system.until_tagged(f"{system.host}/library/app:v{each}_esgz")
            await system.idle()
