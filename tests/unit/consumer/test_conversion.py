"""From a request to a tag: what is converted, what is not, and why a stale target never stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from consumer.content import StoreContent
from drivers import layerwise, once
from drivers.api import ANNOTATION_SOURCE_DIGEST, ConvertedLayer
from shared.errors import LimitExceededError, PermanentError, SkippedError, SupersededError, TransientError
from shared.messages import DriverChoice
from shared.oci import media_types
from shared.oci.converted import ANNOTATION_DRIVER_NAME
from shared.oci.descriptor import Descriptor
from shared.oci.digest import Digest
from shared.oci.manifest import encode_manifest
from shared.oci.reference import Reference
from shared.settings.model import Limits
from tests.images.comparing import differences
from tests.images.small import push_image, small_image
from tests.unit.consumer.support import converter, progress, pushed, request, source, target
from tests.watched_store import WatchedStore


async def test_an_image_becomes_its_converted_image_under_the_target_tag() -> None:
    store = WatchedStore()
    image = await pushed(store)
    converted = await converter(store).convert(request(image), progress())
    made = await store.manifest(target())
    assert made.digest == converted.descriptor.digest
    assert made.annotations[ANNOTATION_SOURCE_DIGEST] == image.manifest.digest
    assert await differences(store, source(), target()) == []
    assert store.open_uploads == 0


async def test_a_request_without_a_digest_takes_what_the_tag_is_now() -> None:
    store = WatchedStore()
    image = await pushed(store)
    converted = await converter(store).convert(request(), progress())
    assert converted.request.source.digest == image.manifest.digest


async def test_converting_again_pulls_nothing() -> None:
    store = WatchedStore()
    image = await pushed(store)
    await converter(store).convert(request(image), progress())
    store.calls.clear()
    with pytest.raises(SkippedError, match="up to date"):
        await converter(store).convert(request(image), progress())
    assert store.calls["open_blob"] == store.calls["upload"] == store.calls["put_manifest"] == 0


async def test_other_options_are_another_target() -> None:
    store = WatchedStore()
    image = await pushed(store)
    await converter(store).convert(request(image), progress())
    other = request(image, driver=DriverChoice(type="estargz", config={"estargz_chunk_size": 65536}))
    converted = await converter(store).convert(other, progress())
    assert converted.result.layers_total == 2


async def test_two_requests_at_once_for_one_target_convert_once() -> None:
    store = WatchedStore()
    image = await pushed(store)
    one = converter(store)
    results = await asyncio.gather(*(one.convert(request(image), progress()) for _ in range(3)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Converted", "SkippedError", "SkippedError"]


async def test_a_tag_that_has_moved_on_is_superseded_before_anything_is_pulled() -> None:
    store = WatchedStore()
    old = await pushed(store, 1)
    await pushed(store, 2)
    with pytest.raises(SupersededError):
        await converter(store).convert(request(old), progress())
    assert store.calls["open_blob"] == 0


async def test_a_tag_that_is_gone_is_superseded() -> None:
    store = WatchedStore()
    image = await pushed(store)
    store.repository(source()).tags.clear()
    with pytest.raises(SupersededError):
        await converter(store).convert(request(image), progress())


async def test_a_tag_that_moves_during_the_conversion_leaves_no_target() -> None:
    store = WatchedStore()
    old = await pushed(store, 1)
    newer = small_image(2)
    await push_image(store, source("other"), newer)

    def move(operation: str, reference: Reference) -> None:
        if operation == "upload":
            store.repository(reference).tags["v1"] = newer.manifest.digest

    store.before = move
    with pytest.raises(SupersededError):
        await converter(store).convert(request(old), progress())
    assert await store.resolve(target()) is None


async def test_a_tag_that_moves_in_the_instant_of_the_put_leaves_no_stale_target() -> None:
    store = WatchedStore()
    old = await pushed(store, 1)
    newer = small_image(2)
    await push_image(store, source("other"), newer)

    def move(operation: str, reference: Reference) -> None:
        if operation == "put_manifest" and reference.tag == "v1_esgz":
            store.repository(reference).tags["v1"] = newer.manifest.digest

    store.before = move
    converted = await converter(store).convert(request(old), progress())
    assert converted.request.source.digest == newer.manifest.digest
    made = await store.manifest(target())
    assert made.annotations[ANNOTATION_SOURCE_DIGEST] == newer.manifest.digest


async def test_a_tag_that_never_rests_goes_back_to_the_queue() -> None:
    store = WatchedStore()
    old = await pushed(store, 1)
    images = [small_image(number) for number in (2, 3)]
    for image in images:
        await push_image(store, source(f"other{image.manifest.digest.short}"), image)
    turns = iter(range(100))

    def move(operation: str, reference: Reference) -> None:
        if operation == "put_manifest" and reference.tag == "v1_esgz":
            image = images[next(turns) % 2]
            store.repository(reference).tags["v1"] = image.manifest.digest

    store.before = move
    with pytest.raises(TransientError) as error:
        await converter(store).convert(request(old), progress())
    assert error.value.code == "source_moves"


async def test_overwriting_replaces_the_source_tag_once() -> None:
    store = WatchedStore()
    image = await pushed(store)
    wanted = request(image, target=source())
    converted = await converter(store).convert(wanted, progress())
    assert await store.resolve(source()) == converted.descriptor
    with pytest.raises(SkippedError, match="up to date"):
        await converter(store).convert(wanted, progress())


async def test_the_push_of_our_own_result_starts_no_loop() -> None:
    store = WatchedStore()
    image = await pushed(store)
    converted = await converter(store).convert(request(image), progress())
    again = request(source=target().with_digest(converted.descriptor.digest), target=target("v1_esgz_esgz"))
    with pytest.raises(SkippedError, match="made by a converter"):
        await converter(store).convert(again, progress())


async def test_two_instances_with_other_suffixes_and_drivers_do_not_convert_each_other() -> None:
    store = WatchedStore()
    image = await pushed(store)
    await converter(store).convert(request(image), progress())
    nydus = DriverChoice(type="nydus")
    made = await converter(store).convert(request(image, target=target("v1_nydus"), driver=nydus), progress())
    for tag, driver in (("v1_esgz", nydus), ("v1_nydus", DriverChoice(type="estargz"))):
        seen = source(tag)
        with pytest.raises(SkippedError):
            await converter(store).convert(
                request(source=seen, target=target(f"{tag}_again"), driver=driver), progress()
            )
    assert made.descriptor.digest


async def test_a_users_tag_that_ends_in_the_suffix_is_converted() -> None:
    store = WatchedStore()
    image = await pushed(store, reference=source("v1_esgz"))
    wanted = request(source=source("v1_esgz").with_digest(image.manifest.digest), target=target("v1_esgz_esgz"))
    assert (await converter(store).convert(wanted, progress())).result.layers_total == 2


async def test_a_users_own_image_under_the_target_tag_is_not_replaced() -> None:
    store = WatchedStore()
    image = await pushed(store)
    theirs = await pushed(store, 2, target())
    with pytest.raises(PermanentError) as error:
        await converter(store).convert(request(image), progress())
    assert error.value.code == "target_not_ours"
    assert await store.resolve(target()) == theirs.manifest.descriptor
    await converter(store, replace_foreign=True).convert(request(image), progress())


async def test_another_converters_target_is_replaced() -> None:
    store = WatchedStore()
    image = await pushed(store)
    await converter(store).convert(request(image), progress())
    made = await store.manifest(target())
    unmarked = encode_manifest(
        {**made.data, "annotations": {k: v for k, v in made.annotations.items() if k != ANNOTATION_DRIVER_NAME}}
    )
    await store.put_manifest(target(), unmarked)
    newer = await pushed(store, 2)
    await converter(store).convert(request(newer), progress())
    assert (await store.manifest(target())).annotations[ANNOTATION_SOURCE_DIGEST] == newer.manifest.digest


async def test_signatures_and_charts_are_no_images() -> None:
    store = WatchedStore()
    image = await pushed(store)
    config = Descriptor(
        "application/vnd.cncf.helm.config.v1+json", image.manifest.config.digest, image.manifest.config.size
    )
    chart = encode_manifest({**image.manifest.data, "config": config.to_json()})
    await store.put_manifest(source(), chart)
    with pytest.raises(SkippedError, match="not a container image"):
        await converter(store).convert(request(), progress())


async def test_what_does_not_exist_is_permanent() -> None:
    with pytest.raises(PermanentError) as error:
        await converter(WatchedStore()).convert(request(), progress())
    assert error.value.code == "manifest_unknown"


async def test_an_unknown_driver_and_wrong_options_are_permanent() -> None:
    store = WatchedStore()
    image = await pushed(store)
    for choice, code in (
        (DriverChoice(type="squash"), "unknown_driver"),
        (DriverChoice(type="estargz", config={"estargz_chunk_sise": 1}), "invalid_options"),
    ):
        with pytest.raises(PermanentError) as error:
            await converter(store).convert(request(image, driver=choice), progress())
        assert error.value.code == code


@pytest.mark.parametrize("limit", ["manifest_layers", "index_manifests"])
async def test_absurd_counts_are_refused_by_name(limit: str) -> None:
    store = WatchedStore()
    image = await pushed(store)
    if limit == "index_manifests":
        children = [replace(image.manifest.descriptor).to_json()] * 3
        index = encode_manifest({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": children})
        await store.put_manifest(source(), index)
    limits = Limits(manifest_layers=1, index_manifests=2)
    with pytest.raises(LimitExceededError, match=limit):
        await converter(store, limits=limits).convert(request(), progress())


async def test_cancelling_leaves_no_upload_open_and_no_target() -> None:
    store = WatchedStore()
    image = await pushed(store)
    task: asyncio.Task[object] = asyncio.create_task(converter(store).convert(request(image), progress()))

    def cancel(operation: str, _reference: Reference) -> None:
        if operation == "upload":
            task.cancel()

    store.before = cancel
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.open_uploads == 0
    assert await store.resolve(target()) is None


async def test_a_layer_converted_once_is_never_converted_again() -> None:
    store = WatchedStore()
    first = await pushed(store, 1)
    await converter(store, cache=True).convert(request(first), progress())
    elsewhere = source("v1", "team/other")
    image = await pushed(store, 2, elsewhere)  # shares its base layer with the first
    wanted = request(source=elsewhere.with_digest(image.manifest.digest), target=target(repository="team/other"))
    store.calls.clear()
    result = (await converter(store, cache=True).convert(wanted, progress())).result
    assert result.layers_reused == 0  # the default cache stands beside each project
    again = source("v2", "library/third")
    image = await pushed(store, 3, again)
    wanted = request(source=again.with_digest(image.manifest.digest), target=target("v2_esgz", "library/third"))
    result = (await converter(store, cache=True).convert(wanted, progress())).result
    assert (result.layers_total, result.layers_reused) == (2, 1)
    assert await differences(store, again, target("v2_esgz", "library/third")) == []


async def test_a_layer_that_another_consumer_converted_while_this_one_waited_is_not_converted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = WatchedStore()
    image = await pushed(store)
    await converter(store, cache=True).convert(request(image), progress())
    looks: list[Descriptor] = []
    look = StoreContent.cached_layer

    async def too_early(self: StoreContent, layer: Descriptor, fingerprint: str) -> ConvertedLayer | None:
        """The first look comes before the other consumer's record."""
        looks.append(layer)
        return await look(self, layer, fingerprint) if looks.count(layer) > 1 else None

    monkeypatch.setattr(StoreContent, "cached_layer", too_early)
    monkeypatch.setattr(once, "LOOK_AGAIN_AFTER", -1.0)
    again = request(image, target=target("again", "library/again"))
    result = (await converter(store, cache=True).convert(again, progress())).result
    assert result.layers_reused == result.layers_total == 2
    assert len(looks) == 4


async def test_looks_into_the_cache_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    store = WatchedStore()
    image = await pushed(store)
    looking = most = 0

    async def slow(_self: StoreContent, _layer: Descriptor, _fingerprint: str) -> None:
        nonlocal looking, most
        looking += 1
        most = max(most, looking)
        await asyncio.sleep(0.01)
        looking -= 1

    monkeypatch.setattr(StoreContent, "cached_layer", slow)
    monkeypatch.setattr(layerwise, "LOOKS_AT_ONCE", 1)
    await converter(store, cache=True).convert(request(image), progress())
    assert most == 1


async def test_known_layers_that_cannot_be_mounted_are_copied_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = WatchedStore()
    image = await pushed(store)
    await converter(store, cache=True).convert(request(image), progress())
    store.mounts = False
    copying = most = 0
    read = store.open_blob

    @asynccontextmanager
    async def slow(repository: Reference, blob: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        nonlocal copying, most
        copying += 1
        most = max(most, copying)
        await asyncio.sleep(0.01)
        async with read(repository, blob) as stream:
            yield stream
        copying -= 1

    monkeypatch.setattr(store, "open_blob", slow)
    elsewhere = request(image, target=target("v1", "library/elsewhere"))
    result = (await converter(store, cache=True).convert(elsewhere, progress())).result
    assert result.layers_reused == 2
    assert most == 1


@pytest.mark.parametrize("damage", ["foreign manifest", "missing blob", "refused", "other layer"])
async def test_a_cache_that_is_damaged_or_forbidden_fails_nothing(damage: str) -> None:
    store = WatchedStore()
    first = await pushed(store, 1)
    await converter(store, cache=True).convert(request(first), progress())
    cache = f"{source().registry}/library/ics-cache"
    if damage == "foreign manifest":
        manifest = first.manifest
        store.repositories[cache].blobs.update({Digest(digest): data for digest, data in first.blobs.items()})
        for tag in store.repositories[cache].tags:
            store.repositories[cache].manifests[manifest.digest] = manifest
            store.repositories[cache].tags[tag] = manifest.digest
    elif damage == "missing blob":
        store.repositories[cache].blobs.clear()
        store.mounts = False
    elif damage == "other layer":
        digests = list(store.repositories[cache].tags.values())
        for tag, digest in zip(store.repositories[cache].tags, reversed(digests), strict=True):
            store.repositories[cache].tags[tag] = digest
    else:

        def refuse(_operation: str, reference: Reference) -> None:
            if reference.repository.endswith("ics-cache"):
                raise PermanentError("no", code="denied")

        store.before = refuse
    second = source("v9", "library/second")
    image = await pushed(store, 2, second)
    wanted = request(source=second.with_digest(image.manifest.digest), target=target("v9_esgz", "library/second"))
    await converter(store, cache=True).convert(wanted, progress())
    assert await differences(store, second, target("v9_esgz", "library/second")) == []
