"""The driver's look at memory before it asks the store: it spares looks, decides nothing, and is never trusted for long."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from lain_console.metrics import Metrics
from lain_console.operations.decision import LOOK_AGAIN_SECONDS
from lain_console.operations.driver import Driver
from lain_console.operations.start import Starter
from lain_console.state import Scene
from lain_shared.model.app import OperationPhase
from lain_shared.testing import MemoryStore
from tests.fixtures.controller import Fate
from tests.unit.console.builders import Bench, Console, release_of, web


class Asked(MemoryStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def get(self, key: str) -> Any:
        self.reads += 1
        return await super().get(key)

    async def list(self, prefix: str) -> Any:
        self.reads += 1
        return await super().list(prefix)


class Remembering:
    """A console whose memory the test sets, in the middle of a rollout that has still to go on."""

    def __init__(self, bench: Bench, store: Asked, console: Console) -> None:
        self.bench, self.store, self.console = bench, store, console
        self.scenes: list[Scene] | None = None

    async def remember(self) -> None:
        self.scenes = [await self.bench.state.scene("hello")]

    async def reads(self) -> int:
        """How often a pass asks the store."""
        before = self.store.reads
        await self.console.driver.one_pass()
        return self.store.reads - before

    async def phase(self) -> OperationPhase | None:
        operation = await self.bench.operation()
        return operation.phase if operation is not None else None


async def rolling() -> Remembering:
    store = Asked()
    bench = Bench(store)
    console = await bench.console()
    made = Remembering(bench, store, console)
    driver = Driver(
        bench.state, console.lease, "c1", Metrics(CollectorRegistry()), remembered=lambda: made.scenes, now=bench.clock,
        clock=bench.clock,
    )  # fmt: skip
    console.driver, console.starter = driver, Starter(bench.state, driver, "c1", now=bench.clock)
    await bench.register()
    await bench.make_node()
    bench.controller.fates["web@1-abc"] = Fate.STARTING
    await console.deploy(release_of(1, web(1)))
    assert await bench.run(console, 5) is None
    assert await made.phase() is OperationPhase.ROLLOUT
    await made.remember()
    return made


async def test_news_that_leave_nothing_to_do_ask_the_store_nothing() -> None:
    made = await rolling()
    assert await made.reads() == 0


async def test_news_that_call_for_a_step_are_decided_on_the_store() -> None:
    made = await rolling()
    made.bench.controller.fates.clear()
    await made.bench.controller.one_pass()
    await made.remember()
    assert await made.reads() > 0
    assert await made.phase() is not OperationPhase.ROLLOUT


async def test_memory_that_lags_is_believed_for_a_moment_only() -> None:
    made = await rolling()
    made.bench.controller.fates.clear()
    await made.bench.controller.one_pass()  # all serve, and memory has not heard of it
    assert await made.reads() == 0
    made.bench.clock.advance(LOOK_AGAIN_SECONDS)
    assert await made.reads() > 0
    assert await made.phase() is not OperationPhase.ROLLOUT


async def test_memory_that_is_ahead_writes_nothing() -> None:
    made = await rolling()
    revision = made.store.revision
    assert made.scenes is not None
    made.scenes = [
        Scene(made.scenes[0].app, made.scenes[0].operation, made.scenes[0].holder)
    ]  # nothing left to wait for
    assert await made.reads() > 0
    assert made.store.revision == revision


async def test_who_starts_an_operation_is_not_made_to_wait_for_memory() -> None:
    made = await rolling()
    made.console.driver.wake()
    assert await made.reads() > 0
    assert await made.reads() == 0, "once is enough"


async def test_without_memory_or_lease_the_store_is_asked() -> None:
    made = await rolling()
    remembered, made.scenes = made.scenes, None
    assert await made.reads() > 0
    made.scenes = remembered
    made.console.lease.id = 0
    assert await made.reads() > 0
