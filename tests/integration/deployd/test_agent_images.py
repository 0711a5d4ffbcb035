"""Images come by digest from the cluster's registry, and a failure says whether the image or the registry is missing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lain_shared import keys
from lain_shared.errors import Unavailable
from lain_shared.model.image import KeptImages
from lain_shared.model.pod import PodState
from lain_shared.records import Records
from lain_shared.store import Listing
from lain_shared.testing import MemoryStore, eventually
from tests.fixtures.docker import OwnEngine, OwnRegistry
from tests.integration.deployd.agent_harness import Bench, order, template


@pytest.fixture
async def bench(engine: OwnEngine, registry: OwnRegistry, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(MemoryStore(), engine, tmp_path, registry=registry.host)
    await made.prepare()
    yield made


async def test_an_image_is_pulled_by_digest(bench: Bench, registry: OwnRegistry) -> None:
    image = registry.push("tiny:1", "hello")
    async with bench.agent():
        pods = [await bench.give(order(template(image=image), instance=n)) for n in (1, 2, 3)]
        for pod in pods:
            await bench.until(pod, PodState.RUNNING, ready=True)


async def test_a_missing_image_and_a_missing_registry_are_told_apart(bench: Bench, registry: OwnRegistry) -> None:
    image = registry.push("tiny:1", "hello")
    missing = image[:-4] + ("0000" if not image.endswith("0000") else "1111")
    async with bench.agent():
        pod = await bench.give(order(template(image=missing)))
        seen = await bench.until(pod, PodState.FAILED)
        assert seen.evidence is not None and seen.evidence.reason == "image_missing"
        assert "has no image" in seen.error
    registry.stop()
    try:
        async with bench.agent():
            pod = await bench.give(order(template(image=image), instance=2))
            seen = await bench.until(pod, PodState.FAILED)
            assert seen.evidence is not None and seen.evidence.reason == "registry_unreachable"
            registry.start()
            await bench.until(pod, PodState.RUNNING, ready=True, seconds=30)
    finally:
        registry.stop()
        registry.start()


async def test_unused_images_go_when_the_disk_fills_up_and_only_ours(bench: Bench, registry: OwnRegistry) -> None:
    used, unused = registry.push("tiny:1", "used"), registry.push("tiny:1", "unused")
    bench.engine.docker("tag", "tiny:1", f"{registry.host}/not-ours:1")
    async with bench.agent():
        stays, goes = order(template(image=used)), order(template(image=unused), instance=2)
        for wanted in (stays, goes):
            await bench.until(await bench.give(wanted), PodState.RUNNING)
        await bench.retire(goes)
    await Records(bench.store, keys.KEPT_IMAGES, KeptImages).put(KeptImages("hello", 1, (used,)), "hello", 1)
    async with bench.agent(disk_high_percent=0, resync_seconds=1.0):

        def images() -> str:
            return bench.engine.docker("images", "--digests", "--format", "{{.Repository}}")

        await eventually(lambda: "/unused" not in images(), what="the unused image is gone")
        assert f"{registry.host}/used" in images() and f"{registry.host}/not-ours" in images() and "tiny" in images()


class Reticent(MemoryStore):
    """Does not say which images are kept while it is ``silent``; ``asked`` counts how often it was to."""

    def __init__(self) -> None:
        super().__init__()
        self.silent, self.asked = False, 0

    async def list(self, prefix: str) -> Listing:
        if prefix == keys.KEPT_IMAGES.prefix:
            self.asked += 1
            if self.silent:
                raise Unavailable("etcd does not answer")
        return await super().list(prefix)


async def test_what_can_be_gone_back_to_stays_however_full_the_disk_is(
    engine: OwnEngine, registry: OwnRegistry, tmp_path: Path
) -> None:
    store = Reticent()
    bench = Bench(store, engine, tmp_path, registry=registry.host)
    await bench.prepare()
    current, before, oldest = (registry.push("tiny:1", name) for name in ("current", "before", "oldest"))
    async with bench.agent():
        orders = [order(template(image=image), instance=n) for n, image in enumerate((current, before, oldest), 1)]
        for wanted in orders:
            await bench.until(await bench.give(wanted), PodState.RUNNING)
        for wanted in orders[1:]:
            await bench.retire(wanted)

    def images() -> str:
        return engine.docker("images", "--digests", "--format", "{{.Repository}}")

    async def passes(count: int) -> None:
        seen = store.asked
        await eventually(lambda: store.asked >= seen + count, what="the agent asked for what is kept")

    kept = Records(store, keys.KEPT_IMAGES, KeptImages)
    await kept.put(KeptImages("hello", 1, (before,)), "hello", 1)
    store.silent = True
    async with bench.agent(disk_high_percent=0, resync_seconds=0.5):
        await passes(2)
        assert "/before" in images() and "/oldest" in images(), "nobody says what is kept: all of it may be"

        unreadable = keys.KEPT_IMAGES.key("hello", 2)
        await store.put(unreadable, b'{"v":99}')
        store.silent = False
        await passes(2)
        assert "/oldest" in images(), "the record that cannot be read may name it"

        await store.delete(unreadable)
        await passes(2)
        assert "/oldest" in images(), "nobody keeps what runs: that console keeps no records, and any image may be one"

        await kept.put(KeptImages("hello", 3, (current,)), "hello", 3)
        await eventually(lambda: "/oldest" not in images(), what="what no release names is gone")
        await passes(2)
        assert "/before" in images() and "/current" in images()

        await kept.delete("hello", 1)
        await eventually(lambda: "/before" not in images(), what="what is no longer kept is gone")
        assert "/current" in images()


async def test_images_go_by_the_disk_that_they_are_on(bench: Bench, registry: OwnRegistry) -> None:
    """Volumes may lie on another one: whether that is full is nothing to images, and that it has room keeps none."""
    volumes = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        bench.settings["volumes_root"] = volumes
        unused = order(template(image=registry.push("tiny:1", "unused")))
        async with bench.agent():
            await bench.until(await bench.give(unused), PodState.RUNNING)
            await bench.retire(unused)
        async with bench.agent(disk_high_percent=0, resync_seconds=1.0):
            await eventually(
                lambda: "/unused" not in bench.engine.docker("images", "--digests", "--format", "{{.Repository}}"),
                what="the unused image is gone",
            )
    finally:
        shutil.rmtree(volumes)
