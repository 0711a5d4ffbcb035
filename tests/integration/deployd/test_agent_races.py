"""Interleavings that a real Engine shows once in a thousand times: events out of order, calls that hang, answers that come too late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from lain_deployd.agent.engine import Container, Credentials, EngineEvent, Image, PullProgress
from lain_deployd.agent.spec import Place, container_of
from lain_deployd.testing import FakeEngine
from lain_shared import keys
from lain_shared.model.config import ClusterConfig
from lain_shared.model.pod import PodState
from lain_shared.records import Records
from lain_shared.testing import MemoryStore
from tests.integration.deployd.test_agent_whole import MIB, Node, order


class Unruly(FakeEngine):
    """``tells_late``: events are kept back until ``tell``. ``pulls``: references whose pull hangs until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(images={"app@sha256:1": Image("1", (), MIB)})
        self.tells_late = False
        self.late: list[EngineEvent] = []
        self.pulls: dict[str, asyncio.Event] = {}

    def _tell(self, action: str, container: Container) -> None:
        super()._tell(action, container)
        if self.tells_late:
            self.late.append(self._events.pop())

    def tell(self) -> None:
        self._events += self.late
        self.late.clear()
        self._wake()

    async def pull(
        self, reference: str, credentials: Credentials | None, on_progress: Callable[[PullProgress], None]
    ) -> None:
        if reference in self.pulls:
            await self.pulls[reference].wait()
        await super().pull(reference, credentials, on_progress)


@pytest.fixture
async def engine() -> Unruly:
    return Unruly()


@pytest.fixture
async def node(tmp_path: Path, engine: Unruly) -> Node:
    made = Node(tmp_path, MemoryStore(), engine)
    await Records(made.store, keys.CONFIG, ClusterConfig).put(ClusterConfig("test", "lain.localhost"), "cluster")
    return made


async def test_an_event_that_comes_after_a_newer_one_is_heard(node: Node, engine: Unruly) -> None:
    """The Engine stamps its events before it queues them: two that happen at once may change places."""
    async with node.agent():
        first = await node.until(await node.give(order(1)), PodState.RUNNING, ready=True)
        second = await node.until(await node.give(order(2)), PodState.RUNNING, ready=True)
        engine.tells_late = True
        engine.end(first.container_id, 1)
        engine.tells_late = False
        engine.end(second.container_id, 1)
        await node.until(second.pod, PodState.RUNNING, restarts=1)
        engine.tell()
        await node.until(first.pod, PodState.RUNNING, restarts=1)


async def test_an_order_withdrawn_while_its_image_comes_is_gone_at_once(node: Node, engine: Unruly) -> None:
    """A registry that stalls must not hold up the way back: what is recreated starts only when this is gone."""
    engine.pulls["slow@sha256:1"] = asyncio.Event()
    async with node.agent():
        new = replace(order(1, generation=8, image="slow@sha256:1"), recreate=True)
        await node.until(await node.give(new), PodState.PULLING)
        await node.give(replace(new, run=False))
        old = replace(order(1, generation=9), recreate=True)
        await node.until(await node.give(old), PodState.RUNNING, ready=True)
        assert await node.see(new.pod) is None and "create" in engine.calls and engine.calls["create"] == 1


async def test_an_image_that_went_and_does_not_come_back_holds_up_nobody_else(node: Node, engine: Unruly) -> None:
    """It is brought again without keeping the slot in which containers are made."""
    async with node.agent(parallel_starts=1):
        await node.until(await node.give(order(1)), PodState.RUNNING)
        await engine.remove_image("app@sha256:1")
        del engine._images["app@sha256:1"]
        engine._images["other@sha256:1"] = Image("2", (), MIB)
        engine.pulls["app@sha256:1"] = asyncio.Event()
        waits = await node.give(order(2))
        await node.until(waits, PodState.PULLING)
        await node.until(await node.give(order(3, image="other@sha256:1")), PodState.RUNNING)
        engine.registry["app@sha256:1"] = Image("1", (), MIB)
        engine.pulls["app@sha256:1"].set()
        await node.until(waits, PodState.RUNNING)


async def test_a_container_taken_over_keeps_the_address_it_was_made_with(node: Node, engine: Unruly) -> None:
    """An agent was killed while the Engine made it; the next one did not see it in its list and chose an address of its own."""
    wanted = order()
    spec = container_of(wanted, "172.20.1.77", Place("n1", "", PurePosixPath(node.directory / "volumes"), 2))
    hidden = engine.containers

    async def all_but_it(labels: Mapping[str, str]) -> tuple[Container, ...]:
        found = await hidden(labels)
        return () if engine.calls.get("create", 0) < 2 else found

    await engine.create(spec)
    engine.containers = all_but_it  # type: ignore[method-assign]
    async with node.agent():
        seen = await node.until(await node.give(wanted), PodState.RUNNING, ready=True)
        assert seen.address == "172.20.1.77"
