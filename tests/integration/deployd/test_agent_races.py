"""Interleavings that a real Engine shows once in a thousand times: events out of order, calls that hang, answers that come too late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from lain_deployd.agent.engine import Container, Credentials, EngineEvent, Image, PullProgress
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
