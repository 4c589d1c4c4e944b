"""What every driver keeps to, whatever its format: subclass :class:`DriverConformance` in a module that pytest collects.

Nothing here knows a format. The images are small and hold what layers hold: every type of entry, whiteouts, an empty layer,
extended attributes, names longer than a header has room for.
"""

from __future__ import annotations

import gzip
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic import ValidationError

from drivers.api import (
    ANNOTATION_DRIVER_VERSION,
    ANNOTATION_FINGERPRINT,
    ANNOTATION_SOURCE_DIGEST,
    Driver,
    DriverOptions,
    Result,
)
from drivers.checking import CheckReport, Original
from drivers.limits import LayerLimits
from drivers.testing.content import MemoryContent, Repository
from drivers.testing.images import Tar, add_image, add_index, as_source
from drivers.testing.store import MemoryStore
from shared.errors import CorruptLayerError, IcsError, LimitExceededError, SkippedError
from shared.oci import media_types
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import ImageManifest, Index, encode_manifest

BASE = (
    Tar()
    .folder("etc", uid=3, gid=4)
    .file("etc/passwd", b"root:x:0:0\n" * 900, mode=0o600, uname="root", gname="root")
    .file("etc/empty")
    .file("etc/capable", b"\x7fELF" * 40_000, mode=0o4755, xattrs={"user.note": "kept"})
    .hardlink("etc/again", "etc/capable")
    .symlink("etc/link", "../passwd")
    .bytes()
)
TOP = (
    Tar()
    .folder("var")
    .file("var/" + "long/" * 40 + "name", b"far down")
    .file("etc/.wh.empty")
    .file("var/ünïcode", bytes(range(256)) * 300)
    .bytes()
)
LAYERS = (BASE, Tar().bytes(), TOP)


@dataclass
class Converted:
    """One conversion, and where everything is."""

    source: Repository
    content: MemoryContent
    result: Result

    @property
    def root(self) -> ImageManifest | Index:
        return self.result.root

    @property
    def image(self) -> ImageManifest:
        assert isinstance(self.root, ImageManifest)
        return self.root

    @property
    def original(self) -> ImageManifest:
        (only,) = self.source.manifests.values()
        assert isinstance(only, ImageManifest)
        return only


class DriverConformance(ABC):
    """The suite. ``make`` is all that a driver has to give; ``option`` only if its defaults are not to be tested."""

    @abstractmethod
    def make(self, limits: LayerLimits) -> Driver:
        """A driver, as the catalogue makes it."""

    def option(self) -> DriverOptions:
        return self.driver.options()

    @property
    def driver(self) -> Driver:
        return self.make(LayerLimits())

    async def converted(
        self, source: Repository, manifest: ImageManifest | Index, content: MemoryContent | None = None, **more: Any
    ) -> Converted:
        content = content or MemoryContent(source)
        result = await self.driver.convert(as_source(manifest, **more), content, self.option())
        return Converted(source, content, result)

    async def sample(self, **image: Any) -> Converted:
        source = Repository()
        return await self.converted(source, add_image(source, LAYERS, **image))

    async def checked(self, made: Converted) -> CheckReport:
        target = made.content.target_repository
        target.add_manifest(made.root)
        names = {"registry.test/source": made.source, "registry.test/target": target}
        store = MemoryStore(names)
        original = Original(store, replace(made.content.source, tag=None, digest=self._source_digest(made)))
        reference = replace(made.content.target, tag=None, digest=made.root.digest)
        return await self.driver.check(store, reference, original)

    @staticmethod
    def _source_digest(made: Converted) -> Digest:
        return Digest(made.root.annotations[ANNOTATION_SOURCE_DIGEST])

    async def test_it_says_what_it_is_and_that_it_can_work_here(self) -> None:
        driver = self.driver
        assert driver.type == driver.type.lower().strip() != ""
        assert driver.version
        await driver.check_health()
        await driver.check_health(self.option())

    def test_an_unknown_option_is_refused(self) -> None:
        try:
            self.driver.options.model_validate_json(b'{"no_such_option": 1}')
        except ValidationError:
            return
        raise AssertionError("an unknown option was accepted")

    def test_equal_options_have_one_fingerprint_in_every_instance(self) -> None:
        assert self.driver.fingerprint(self.option()) == self.driver.fingerprint(self.option()) != ""

    async def test_everything_that_the_root_names_is_in_the_target_and_the_root_is_not(self) -> None:
        made = await self.sample()
        target = made.content.target_repository
        assert made.root.digest not in target.manifests
        assert target.tags == {}
        for blob in (made.image.config, *made.image.layers):
            assert Digest.of(target.blobs[blob.digest]) == blob.digest
            assert len(target.blobs[blob.digest]) == blob.size

    async def test_the_root_says_what_made_it_of_what(self) -> None:
        made = await self.sample()
        marks = made.root.annotations
        assert marks[ANNOTATION_DRIVER_NAME] == self.driver.type
        assert marks[ANNOTATION_DRIVER_VERSION] == self.driver.version
        assert marks[ANNOTATION_SOURCE_DIGEST] == made.original.digest
        assert marks[ANNOTATION_FINGERPRINT] == self.driver.fingerprint(self.option())

    async def test_the_result_counts_what_was_done(self) -> None:
        made = await self.sample()
        assert list(made.result.platforms) == ["linux/amd64"]
        assert made.result.layers_total == len(LAYERS)
        assert made.result.layers_reused == 0
        assert made.result.source_size == sum(layer.size for layer in made.original.layers)
        assert made.result.target_size > 0

    async def test_the_config_keeps_what_need_not_change(self) -> None:
        made = await self.sample()
        before = orjson.loads(made.source.blobs[made.original.config.digest])
        after = orjson.loads(made.content.target_repository.blobs[made.image.config.digest])
        assert len(after["rootfs"]["diff_ids"]) == len(made.image.layers)
        for key in before.keys() - {"rootfs", "history"}:
            assert after[key] == before[key], key

    async def test_converting_twice_gives_the_same_bytes(self) -> None:
        first, second = await self.sample(), await self.sample()
        assert first.root.raw == second.root.raw

    async def test_the_compression_of_the_source_makes_no_difference(self) -> None:
        layers = [(await self.sample(compression=kind)).image.layers for kind in ("gzip", "zstd", "none")]
        assert layers[0] == layers[1] == layers[2]

    async def test_docker_media_types_become_oci_ones(self) -> None:
        made = await self.sample(docker=True)
        assert made.root.media_type == media_types.OCI_MANIFEST
        assert made.image.config.media_type == media_types.OCI_CONFIG

    async def test_it_knows_its_own_and_leaves_it_alone(self) -> None:
        made = await self.sample()
        assert self.driver.recognises(made.image)
        assert not self.driver.recognises(made.original)
        try:
            await self.converted(made.content.target_repository, made.image)
        except SkippedError:
            return
        raise AssertionError("an image in the format was converted again")

    async def test_a_converted_image_is_as_its_source(self) -> None:
        report = await self.checked(await self.sample())
        assert report.findings == []
        assert report.compared
        assert report.images == 1

    async def test_a_damaged_layer_is_found(self) -> None:
        made = await self.sample()
        blobs = made.content.target_repository.blobs
        largest = max(made.image.layers, key=lambda layer: layer.size)
        data = bytearray(blobs[largest.digest])
        data[len(data) // 2] ^= 0x55
        blobs[largest.digest] = bytes(data)
        try:
            assert not (await self.checked(made)).ok
        except IcsError as error:
            assert error.code  # noqa: PT017  either way it was found

    async def test_a_source_that_differs_is_found(self) -> None:
        made = await self.sample()
        other = add_image(made.source, (BASE, Tar().bytes(), Tar().file("other", b"other").bytes()))
        target = made.content.target_repository
        marked = {
            key: str(other.digest) if value == str(self._source_digest(made)) else value
            for key, value in made.root.annotations.items()
        }
        changed = encode_manifest({**made.root.data, "annotations": marked})
        report = await self.checked(Converted(made.source, made.content, replace(made.result, root=changed)))
        assert not report.ok
        assert changed.digest in target.manifests

    async def test_every_selected_platform_of_an_index_is_converted(self) -> None:
        source = Repository()
        names = ("linux/amd64", "linux/arm64", "linux/s390x")
        images = [(name, add_image(source, LAYERS, architecture=name.partition("/")[2])) for name in names]
        made = await self.converted(source, add_index(source, images), platforms=["linux/s390x", "linux/amd64"])
        assert isinstance(made.root, Index)
        assert [str(child.platform) for child in made.root.manifests] == ["linux/amd64", "linux/s390x"]
        assert all(child.digest in made.content.target_repository.manifests for child in made.root.manifests)
        assert any("arm64" in reason for reason in made.result.left_out)
        report = await self.checked(made)
        assert (report.findings, report.images) == ([], 2)

    async def test_no_selected_platform_is_nothing_to_do(self) -> None:
        source = Repository()
        for manifest in (
            add_image(source, LAYERS),
            add_index(source, [("linux/amd64", add_image(source, LAYERS))]),
        ):
            try:
                await self.converted(source, manifest, platforms=["linux/riscv64"])
            except SkippedError:
                continue
            raise AssertionError("a platform that was not selected was converted")

    async def test_layers_converted_before_are_reused(self) -> None:
        source = Repository()
        image = add_image(source, LAYERS)
        first = await self.converted(source, image)
        content = MemoryContent(source, first.content.target_repository)
        content.cache = first.content.cache
        again = await self.converted(source, image, content)
        assert again.root.raw == first.root.raw
        assert again.result.layers_reused > 0

    async def test_a_damaged_source_is_told_as_such_and_leaves_nothing_begun(self) -> None:
        whole = gzip.compress(BASE, 1, mtime=0)
        for layer in (whole[: len(whole) // 2], gzip.compress(BASE[:20_000], 1, mtime=0), b"\x1f\x8b no gzip at all"):
            source = Repository()
            manifest = _with_layer(source, source.add(layer, media_types.OCI_LAYER_GZIP))
            content = MemoryContent(source)
            try:
                await self.converted(source, manifest, content)
            except CorruptLayerError:
                assert manifest.digest not in content.target_repository.manifests
                continue
            raise AssertionError("a damaged layer was converted")

    async def test_more_entries_than_allowed_are_refused(self) -> None:
        source = Repository()
        manifest = add_image(source, LAYERS)
        try:
            await self.make(LayerLimits(layer_entries=3)).convert(
                as_source(manifest), MemoryContent(source), self.option()
            )
        except LimitExceededError:
            return
        raise AssertionError("a layer over the limit was converted")


def _with_layer(source: Repository, layer: Descriptor) -> ImageManifest:
    sound = add_image(source, (BASE,))
    manifest = encode_manifest({**sound.data, "layers": [layer.to_json()]})
    assert isinstance(manifest, ImageManifest)
    source.add_manifest(manifest)
    return manifest
