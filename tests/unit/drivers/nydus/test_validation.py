"""A defect of our own is found before what it spoiled is published: the checks run on every conversion."""

from __future__ import annotations

from importlib import import_module

import pytest

from drivers.nydus import NydusDriver
from drivers.nydus.errors import InvalidNydusError
from drivers.nydus.options import NydusOptions
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, as_source

LAYERS = [
    Tar().folder("d").file("d/a", b"a" * 100_000).bytes(),
    Tar().file("b", b"b" * 5000).hardlink("c", "d/a").bytes(),
]


def spoil(monkeypatch: pytest.MonkeyPatch, module: str, encoder: str, offset: int) -> None:
    """Let an encoder get one byte wrong."""
    where = import_module(f"drivers.nydus.{module}")
    encode = getattr(where, encoder)

    def spoiled(*arguments: object) -> bytes:
        data = bytearray(encode(*arguments))
        data[offset] ^= 1
        return bytes(data)

    monkeypatch.setattr(where, encoder, spoiled)


@pytest.mark.parametrize(
    ("module", "encoder", "offset", "field"),
    [
        ("image", "encode_bootstrap", 1024, "superblock.magic"),
        ("image", "encode_bootstrap", 0x1000, "device[0].id"),
        ("image", "encode_bootstrap", 0x1058, "blob[0].compressed_size"),
        ("image", "encode_bootstrap", -4096, "chunk.digest"),
        ("blob.tail", "encode_tar_header", 257, "tar_header.magic"),
        ("blob.tail", "encode_tar_header", 135, "tar_header.checksum"),
        ("blob.tail", "encode_toc", 24 + 128, "toc[blob.meta].digest"),
        ("blob.tail", "encode_toc", 56 + 128, "toc[blob.meta].offset"),
    ],
)
async def test_one_wrong_byte_stops_the_conversion(
    module: str, encoder: str, offset: int, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository()
    content = MemoryContent(repository)
    source = as_source(add_image(repository, LAYERS))
    spoil(monkeypatch, module, encoder, offset)
    with pytest.raises(InvalidNydusError) as caught:
        await NydusDriver().convert(source, content, NydusOptions())
    assert caught.value.field == field
    target = content.target_repository
    assert target.manifests == {}
    # Spoiled layers are given up; sound ones lie there for the next attempt.
    assert len(target.blobs) == (len(LAYERS) if module == "image" else 0)


async def test_one_wrong_byte_in_a_reference_stops_the_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository()
    content = MemoryContent(repository)
    source = as_source(add_image(repository, LAYERS))
    spoil(monkeypatch, "blob.tail", "encode_toc", 24)
    with pytest.raises(InvalidNydusError, match=r"toc\[blob.meta\].digest"):
        await NydusDriver().convert(source, content, NydusOptions(oci_ref=True))
    assert content.target_repository.manifests == {}
