"""What fifty pods of one image ask of the Engine: once whether it is there, once to bring it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from lain_deployd.agent.engine import Credentials, Image, ImageMissing, PullProgress
from lain_deployd.agent.images import Images
from lain_deployd.testing import FakeEngine

REFERENCE = "registry.example/app@sha256:1"
IMAGE = Image("1", (), 5 * 2**20)


class Counting(FakeEngine):
    """Says what it was asked, and answers a moment later, as the real one does."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: 100.0)
        self.asked: list[str] = []

    async def image(self, reference: str) -> Image | None:
        self.asked.append("image")
        await asyncio.sleep(0)
        return await super().image(reference)

    async def pull(
        self, reference: str, credentials: Credentials | None, on_progress: Callable[[PullProgress], None]
    ) -> None:
        self.asked.append("pull")
        await asyncio.sleep(0)
        await super().pull(reference, credentials, on_progress)


async def test_who_waits_for_one_image_waits_for_one_search() -> None:
    engine = Counting()
    engine.registry[REFERENCE] = IMAGE
    images = Images(engine, lambda: None, lambda: 100.0)
    told: list[str] = []
    found = await asyncio.gather(*(images.have(REFERENCE, told.append) for _ in range(50)))
    assert found == [IMAGE] * 50
    assert engine.asked == ["image", "pull", "image"]
    assert told.count("pulling") == 50
    await images.have(REFERENCE, told.append)
    assert len(engine.asked) == 3


async def test_what_is_missing_is_missing_for_all_and_looked_for_again_by_the_next() -> None:
    engine = Counting()
    images = Images(engine, lambda: None, lambda: 100.0)
    found = await asyncio.gather(*(images.have(REFERENCE, str) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [ImageMissing] * 3
    engine.registry[REFERENCE] = IMAGE
    assert await images.have(REFERENCE, str) == IMAGE


async def test_a_search_ends_with_the_last_who_waits_for_it() -> None:
    engine = Counting()
    engine.registry[REFERENCE] = IMAGE
    images = Images(engine, lambda: None, lambda: 100.0)
    first, second = (asyncio.create_task(images.have(REFERENCE, str)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == IMAGE
    with pytest.raises(asyncio.CancelledError):
        await first
    alone = asyncio.create_task(images.have("registry.example/other@sha256:2", str))
    await asyncio.sleep(0)
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
    engine.registry["registry.example/other@sha256:2"] = IMAGE
    assert await images.have("registry.example/other@sha256:2", str) == IMAGE
