"""Which images go, and when: judged by the disk that they are on, and only once it is known what may be needed."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from lain_deployd.agent.clearing import Clearing
from lain_deployd.agent.disk import Disk as StateFile
from lain_deployd.agent.engine import Image
from lain_deployd.agent.execute import Executor
from lain_deployd.agent.images import Images
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.kept import Kept
from lain_deployd.agent.metrics import AgentMetrics
from lain_deployd.agent.pods import Order
from lain_deployd.agent.pressure import Disk
from lain_deployd.agent.spec import Place
from lain_deployd.testing import FakeEngine
from lain_shared import keys
from lain_shared.model.image import KeptImages
from lain_shared.model.pod import Assignment, PodId, PodTemplate, ProcType
from lain_shared.records import Records
from lain_shared.testing import MemoryStore

NEEDED, KEPT, LEFT = "hello@sha256:3", "hello@sha256:2", "hello@sha256:1"
FULL, ROOMY = Disk(100, 90), Disk(100, 80)


@pytest.mark.parametrize(
    ("disk", "reachable", "whole", "left"),
    [
        (FULL, True, True, {NEEDED, KEPT}),
        (ROOMY, True, True, {NEEDED, KEPT, LEFT}),
        (None, True, True, {NEEDED, KEPT, LEFT}),
        (FULL, False, True, {NEEDED, KEPT, LEFT}),
        (FULL, True, False, {NEEDED, KEPT, LEFT}),
    ],
    ids=["full", "roomy", "nobody knows which disk", "the Engine is away", "orders are not known"],
)
async def test_what_nobody_needs_goes_when_the_engines_disk_is_full(
    tmp_path: Path, disk: Disk | None, left: set[str], *, reachable: bool, whole: bool
) -> None:
    store, engine = MemoryStore(), FakeEngine(images={name: Image(name, (), 1) for name in (NEEDED, KEPT, LEFT)})
    await Records(store, keys.KEPT_IMAGES, KeptImages).put(KeptImages("hello", 2, (KEPT, NEEDED)), "hello", 2)
    images = Images(engine, lambda: None, lambda: 0.0)
    images.used.update(dict.fromkeys((NEEDED, KEPT, LEFT), 0.0))
    executor = Executor(engine, images, lambda: Place("n1", "", PurePosixPath(tmp_path), 1), lambda: ())
    keeper = Keeper("n1", engine, executor, StateFile(tmp_path / "agent.json"), AgentMetrics())
    order = Order(Assignment("hello", "web", 1, 7, ProcType.WEB, 3, PodTemplate(NEEDED)), 3)
    keeper.orders, keeper.whole = {PodId("hello", "web", 1, 7): order}, whole
    clearing = Clearing(
        keeper, images, Kept(store, ""), reachable=lambda: reachable, look=lambda: disk, high_percent=85, registry=""
    )
    told: list[None] = []
    clearing.on_cleared = lambda: told.append(None)
    await clearing.one_pass()
    assert {name for name in (NEEDED, KEPT, LEFT) if await engine.image(name) is not None} == left
    assert bool(told) == (LEFT not in left)
