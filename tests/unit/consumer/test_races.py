"""Several consumers, and registries that others write to meanwhile: the target converges, and what is somebody else's stays."""

from __future__ import annotations

import asyncio

import pytest

from drivers.api import ANNOTATION_SOURCE_DIGEST
from shared.errors import PermanentError, SkippedError, SupersededError
from shared.oci.reference import Reference
from tests.images.small import push_image, small_image
from tests.unit.consumer.support import converter, progress, pushed, request, source, target
from tests.watched_store import WatchedStore


async def test_three_consumers_with_one_message_leave_one_sound_target() -> None:
    store = WatchedStore()
    image = await pushed(store)
    consumers = [converter(store, cache=True) for _ in range(3)]
    results = await asyncio.gather(*(each.convert(request(image), progress()) for each in consumers))
    assert {each.descriptor.digest for each in results} == {(await store.manifest(target())).digest}
    assert store.open_uploads == 0


async def test_an_attempt_that_died_after_its_put_is_made_good_by_its_redelivery() -> None:
    """A newer conversion finished first, the older one put its target over it, and died before it looked again."""
    store = WatchedStore()
    old = await pushed(store, 1)
    died = await converter(store).convert(request(old), progress())
    newer = await pushed(store, 2)
    assert await store.resolve(target()) == died.descriptor
    again = await converter(store).convert(request(old), progress())
    assert again.request.source.digest == newer.manifest.digest
    assert (await store.manifest(target())).annotations[ANNOTATION_SOURCE_DIGEST] == newer.manifest.digest
    with pytest.raises(SkippedError, match="up to date"):
        await converter(store).convert(request(newer), progress())


async def test_an_attempt_that_went_on_to_a_newer_source_and_died_there_is_made_good_too() -> None:
    """The message names the first source, the stale target is of the second, the tag points at the third."""
    store = WatchedStore()
    first = await pushed(store, 1)
    second = await pushed(store, 2)
    await converter(store).convert(request(second), progress())
    third = await pushed(store, 3)
    with pytest.raises(SupersededError):  # a first delivery has put nothing: the third push's own event does it
        await converter(store).convert(request(first), progress())
    again = await converter(store).convert(request(first), progress(), again=True)
    assert again.request.source.digest == third.manifest.digest
    assert (await store.manifest(target())).annotations[ANNOTATION_SOURCE_DIGEST] == third.manifest.digest
    with pytest.raises(SupersededError):
        await converter(store).convert(request(first), progress(), again=True)


async def test_a_redelivery_whose_source_is_gone_is_up_to_date() -> None:
    store = WatchedStore()
    image = await pushed(store)
    await converter(store).convert(request(image), progress())
    del store.repository(source()).tags["v1"]
    with pytest.raises(SkippedError, match="up to date"):
        await converter(store).convert(request(image), progress())


async def test_an_image_that_somebody_puts_under_the_target_tag_meanwhile_stays() -> None:
    store = WatchedStore()
    image = await pushed(store)
    theirs = small_image(2)
    await push_image(store, source("theirs"), theirs)

    def put(operation: str, reference: Reference) -> None:
        if operation == "upload":
            store.repository(reference).tags["v1_esgz"] = theirs.manifest.digest

    store.before = put
    with pytest.raises(PermanentError) as caught:
        await converter(store).convert(request(image), progress())
    assert caught.value.code == "target_not_ours"
    assert await store.resolve(target()) == theirs.manifest.descriptor


async def test_a_target_that_vanishes_while_it_is_looked_at_is_made_anew() -> None:
    store = WatchedStore()
    image = await pushed(store)
    await converter(store).convert(request(image), progress())

    def vanish(operation: str, reference: Reference) -> None:
        if operation == "manifest" and reference.tag == "v1_esgz":
            store.repository(reference).tags.pop("v1_esgz", None)

    store.before = vanish
    converted = await converter(store).convert(request(image), progress())
    assert await store.resolve(target()) == converted.descriptor


@pytest.mark.parametrize("gone", ["manifest", "open_blob"])
async def test_a_source_that_is_replaced_and_collected_meanwhile_is_superseded_not_dead(gone: str) -> None:
    store = WatchedStore()
    old = await pushed(store, 1)
    newer = small_image(2)
    await push_image(store, source("other"), newer)

    def collect(operation: str, reference: Reference) -> None:
        if operation == gone and reference.tag in {None, "v1"}:
            repository = store.repository(reference)
            repository.tags["v1"] = newer.manifest.digest
            repository.manifests.pop(old.manifest.digest, None)
            for layer in old.manifest.layers:
                repository.blobs.pop(layer.digest, None)

    store.before = collect
    with pytest.raises(SupersededError):
        await converter(store).convert(request(old), progress())
    assert await store.resolve(target()) is None


async def test_a_source_that_is_damaged_where_it_stands_is_an_error_all_the_same() -> None:
    store = WatchedStore()
    image = await pushed(store)
    for layer in image.manifest.layers:
        del store.repository(source()).blobs[layer.digest]
    with pytest.raises(PermanentError) as caught:
        await converter(store).convert(request(image), progress())
    assert caught.value.code == "blob_unknown"
