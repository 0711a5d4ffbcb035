"""Interleavings that a real Engine shows once in a thousand times: events out of order, calls that hang, answers that come too late."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from lain_deployd.agent.engine import (
    Container,
    ContainerSpec,
    Credentials,
    EngineEvent,
    EngineRefused,
    Image,
    Limits,
    PullProgress,
)
from lain_deployd.agent.spec import Place, container_of
from lain_deployd.testing import FakeEngine
from lain_shared import keys
from lain_shared.model.config import ClusterConfig
from lain_shared.model.node import Alive, Block, NodeState
from lain_shared.model.pod import Observed, PodId, PodState, ProcType, Volume
from lain_shared.model.volume import VolumeDeletion
from lain_shared.records import Records
from lain_shared.store import Entry
from lain_shared.testing import MemoryStore, eventually
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


class SlowToTell(MemoryStore):
    """Takes its time to say what a node has."""

    async def get(self, key: str) -> Entry | None:
        if key.startswith(keys.NODES_STATE.prefix):
            await asyncio.sleep(0.3)
        return await super().get(key)


async def test_a_volume_is_not_begun_anew_before_it_is_known_what_was_here(tmp_path: Path, engine: Unruly) -> None:
    """The machine was installed anew: its disk remembers nothing, only the store knows that the instance had data."""
    node = Node(tmp_path, SlowToTell(), engine)
    state = NodeState("n1", 1, 1 << 30, 0, 10**10, 10**10, "20.10", volumes=("hello.web-1",))
    await Records(node.store, keys.CONFIG, ClusterConfig).put(ClusterConfig("test", "lain.localhost"), "cluster")
    await Records(node.store, keys.NODES_STATE, NodeState).put(state, "n1")
    await engine.ensure_network("lain", "172.20.1.0/24", "lain0")
    pod = await node.give(order(volumes=(Volume("/data"),)))
    before = Observed("hello", "web", 1, pod.generation, PodState.RUNNING, 1, address="172.20.1.9")
    await Records(node.store, keys.OBSERVED, Observed).put(before, "n1", str(pod))
    async with node.agent():
        seen = await node.until(pod, PodState.FAILED)
        assert seen.evidence is not None and seen.evidence.reason == "volume_missing"
        assert "create" not in engine.calls and not (tmp_path / "volumes/hello").exists()


@pytest.mark.parametrize("code", [0, 1])
async def test_what_ended_for_good_is_not_run_again_though_nothing_of_it_is_left(
    node: Node, engine: Unruly, code: int
) -> None:
    """Neither the agent's memory nor the container: ``observed`` still says that the migration was run."""
    wanted = order(kind=ProcType.ONESHOT, command=("sh", "-c", f"exit {code}"))
    async with node.agent():
        pod = await node.give(wanted)
        await eventually(lambda: _ended(node, pod), timeout_seconds=20, what="it has ended for good")
    for container in await engine.containers({}):
        await engine.remove(container.id)
    (node.directory / "state/agent.json").unlink()
    made = engine.calls["create"]
    async with node.agent():
        await node.until(await node.give(order(2)), PodState.RUNNING)
        await node.until(pod, PodState.EXITED, exit_code=code)
        assert engine.calls["create"] == made + 1


async def _ended(node: Node, pod: PodId) -> bool:
    seen = await node.see(pod)
    return seen is not None and seen.state is PodState.EXITED


async def test_what_somebody_deleted_or_put_back_is_said_again(node: Node, engine: Unruly) -> None:
    """Keys deleted by hand, a store restored from yesterday: what stands there is looked at, not only what was written."""
    async with node.agent(resync_seconds=0.2):
        pod = await node.give(order(1))
        before = await node.until(pod, PodState.RUNNING, ready=True)
        gone = order(2)
        stale = replace(before, instance=2)
        state = Records(node.store, keys.NODES_STATE, NodeState)
        await eventually(lambda: state.get("n1"), what="nodes-state")
        await node.store.delete(keys.OBSERVED.key("n1", str(pod)))
        await node.store.delete(keys.NODES_STATE.key("n1"))
        await Records(node.store, keys.OBSERVED, Observed).put(stale, "n1", str(gone.pod))
        await node.until(pod, PodState.RUNNING, ready=True)
        await eventually(lambda: state.get("n1"), what="nodes-state again")
        await eventually(lambda: _is_gone(node, gone.pod), what="what is not here is not said to be")


async def _is_gone(node: Node, pod: PodId) -> bool:
    return await node.see(pod) is None


async def test_a_state_that_a_newer_agent_wrote_does_not_silence_an_older_one(node: Node) -> None:
    await node.store.put(keys.NODES_STATE.key("n1"), b'{"v":99}')
    async with node.agent():
        await node.until(await node.give(order(1)), PodState.RUNNING)
        state = Records(node.store, keys.NODES_STATE, NodeState)
        await eventually(lambda: state.get("n1"), what="nodes-state")


async def test_limits_that_an_engine_does_not_take_are_not_insisted_on_without_pause(
    node: Node, engine: Unruly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without soft memory limits: the Engine says yes and leaves them out."""
    create, update = engine.create, engine.update

    async def made(spec: ContainerSpec) -> str:
        return await create(replace(spec, limits=replace(spec.limits, memory_reservation_bytes=None)))

    async def changed(container: str, limits: Limits) -> None:
        await update(container, replace(limits, memory_reservation_bytes=None))

    monkeypatch.setattr(engine, "create", made)
    monkeypatch.setattr(engine, "update", changed)
    async with node.agent():
        pod = await node.give(order(memory_bytes=32 * MIB, memory_request_bytes=16 * MIB))
        text = "limits are 32 MiB and no CPU quota, not 32 MiB (16 MiB soft) and no CPU quota"
        seen = await node.until(pod, PodState.RUNNING, ready=True)
        assert seen.error.startswith(text)
        assert engine.calls["update"] == 1


@pytest.mark.parametrize("running", [True, False])
async def test_a_claim_that_is_gone_is_made_again_for_the_same_block(node: Node, running: bool) -> None:
    """A store put back from before the claim: the node's network and pods are in that block, whichever is the first free one."""
    blocks = Records(node.store, keys.BLOCKS, Block)
    await blocks.put(Block("172.20.1.0/24", "other"), "172.20.1.0/24")

    async def claimed() -> bool:
        stored = await blocks.get("172.20.2.0/24")
        return stored is not None and stored.value.node == "n1"

    async def lose() -> None:
        for block in ("172.20.1.0/24", "172.20.2.0/24"):
            await blocks.delete(block)

    async with node.agent(resync_seconds=0.2):
        await eventually(claimed)
        await node.until(await node.give(order(1)), PodState.RUNNING)
        if running:
            await lose()
            await eventually(claimed)
    if not running:
        await lose()
        async with node.agent():
            await eventually(claimed)
    assert len(await blocks.list()) == 1


async def test_a_volume_that_cannot_be_deleted_keeps_no_other_and_another_apps_is_not_touched(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``stuck`` cannot be removed; ``tidy`` was ordered too, and names one of ``tidy.more``, which is another app."""
    root = node.directory / "volumes"
    for app in ("stuck", "tidy", "tidy.more"):
        (root / app / "web/1/data").mkdir(parents=True)
    remove = shutil.rmtree

    def removes(path: Path, *more: Any) -> None:
        if "stuck" in str(path):
            raise PermissionError(13, "Operation not permitted")
        remove(path, *more)

    monkeypatch.setattr(shutil, "rmtree", removes)
    orders = Records(node.store, keys.VOLUME_DELETIONS, VolumeDeletion)
    await orders.put(VolumeDeletion("n1", "stuck", ("stuck.web-1",), "ada", 0.0), "n1", "stuck")
    await orders.put(VolumeDeletion("n1", "tidy", ("tidy.web-1", "tidy.more.web-1"), "ada", 0.0), "n1", "tidy")
    async with node.agent():
        await eventually(lambda: not (root / "tidy").exists(), what="what can be deleted is")
        assert (root / "tidy.more/web/1/data").is_dir() and (root / "stuck/web/1/data").is_dir()


async def test_an_engine_installed_anew_gets_its_pods_again(node: Node, tmp_path: Path) -> None:
    """Nothing of the old one is left: the same pods at the same addresses, no crash counted; its id is told, and what ended is not run."""
    once = order(2, kind=ProcType.ONESHOT, command=("sh", "-c", "exit 0"))
    alive = Records(node.store, keys.ALIVE, Alive)
    async with node.agent():
        before = await node.until(await node.give(order(1)), PodState.RUNNING, ready=True)
        await node.until(await node.give(once), PodState.EXITED, exit_code=0)
        await eventually(lambda: alive.get("n1"), what="presence")
    engine = Unruly()
    engine.engine = replace(engine.engine, id="another")
    anew = Node(tmp_path, node.store, engine)
    async with anew.agent():
        await eventually(lambda: engine.calls.get("start"), what="it runs again")
        await anew.until(order(1).pod, PodState.RUNNING, ready=True, restarts=0, address=before.address)
        assert engine.calls["create"] == 1

        async def told() -> bool:
            stored = await alive.get("n1")
            return stored is not None and stored.value.engine_id == "another"

        await eventually(told, what="the other Engine's id")
        assert (await anew.until(once.pod, PodState.EXITED)).exit_code == 0


async def test_settings_of_the_cluster_that_cannot_be_read_silence_no_node(node: Node) -> None:
    """What is wrong is told, and a block that is known will do."""

    async def told() -> bool:
        stored = await Records(node.store, keys.NODES_STATE, NodeState).get("n1")
        return stored is not None and any("cluster's settings" in problem for problem in stored.value.problems)

    async with node.agent():
        await node.until(await node.give(order(1)), PodState.RUNNING)
    await node.store.put(keys.CONFIG.key("cluster"), b'{"v":1,"name":5}')
    async with node.agent():
        await node.until(await node.give(order(2)), PodState.RUNNING)
        await eventually(told, what="what is wrong is told")


@pytest.mark.parametrize("verb", ["create", "start"])
async def test_what_an_engine_says_at_length_is_told_in_short(
    node: Node, engine: Unruly, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """It quotes the command: a record too big for the store would keep every other pod's word from it."""

    async def refuses(*_: object) -> str:
        raise EngineRefused("it cannot be done", why="exec: " + "x" * 2_000_000)

    monkeypatch.setattr(engine, verb, refuses)
    async with node.agent():
        seen = await node.until(await node.give(order(1)), PodState.FAILED)
        assert seen.evidence is not None and seen.error.startswith("it cannot be done: exec: xxx")
        assert len(seen.error) < 1_100 and len(seen.evidence.text) < 1_100
