"""The whole agent on a store and an engine in memory: what is hard to provoke with real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lain_deployd.agent.engine import ContainerSpec, ContainerState, EngineUnavailable, Image, Limits
from lain_deployd.agent.main import assembled
from lain_deployd.agent.settings import Settings
from lain_deployd.testing import FakeEngine
from lain_shared import keys
from lain_shared.daemon import Health, run_daemon
from lain_shared.model.config import ClusterConfig
from lain_shared.model.node import Alive, Block, NodeState
from lain_shared.model.pod import Assignment, Observed, PodId, PodState, PodTemplate, ProcType
from lain_shared.records import Records
from lain_shared.testing import MemoryStore, eventually

MIB = 1024 * 1024


@dataclass
class Node:
    """A node in memory; the test is its leader."""

    directory: Path
    store: MemoryStore
    engine: FakeEngine

    @asynccontextmanager
    async def agent(self, **more: Any) -> AsyncIterator[None]:
        given = {
            "etcd": ("x",), "node": "n1", "listen": "127.0.0.1", "port": 0,
            "state_dir": self.directory / "state", "volumes_root": self.directory / "volumes",
        }  # fmt: skip
        health, stop = Health(), asyncio.Event()
        daemon = assembled(Settings(**{**given, **more}), health, self.store, self.engine)
        running = asyncio.create_task(run_daemon(daemon, health=health, stop=stop))
        try:
            yield
        finally:
            stop.set()
            await running

    async def give(self, wanted: Assignment) -> PodId:
        await Records(self.store, keys.ASSIGN, Assignment).put(wanted, "n1", str(wanted.pod))
        return wanted.pod

    async def see(self, pod: PodId) -> Observed | None:
        stored = await Records(self.store, keys.OBSERVED, Observed).get("n1", str(pod))
        return None if stored is None else stored.value

    async def until(self, pod: PodId, state: PodState, **fields: object) -> Observed:
        async def look() -> Observed | None:
            seen = await self.see(pod)
            assert seen is not None and seen.state is state, seen
            assert all(getattr(seen, name) == value for name, value in fields.items()), seen
            return seen

        found = await eventually(look, what=f"{pod} is {state}")
        assert found is not None
        return found


@pytest.fixture
async def node(tmp_path: Path) -> Node:
    made = Node(tmp_path, MemoryStore(), FakeEngine(images={"app@sha256:1": Image("1", (), MIB)}))
    cluster = ClusterConfig("test", "lain.localhost")
    await Records(made.store, keys.CONFIG, ClusterConfig).put(cluster, "cluster")
    return made


def order(instance: int = 1, *, generation: int = 7, kind: ProcType = ProcType.WORKER, **more: Any) -> Assignment:
    given = {"image": "app@sha256:1", "command": ("sleep", "infinity"), **more}
    return Assignment("hello", "web", instance, generation, kind, 1, PodTemplate(**given))


async def test_few_calls_are_made_for_a_pod(node: Node) -> None:
    async with node.agent():
        await node.until(await node.give(order(1)), PodState.RUNNING)
        before = dict(node.engine.calls)
        for instance in range(2, 12):
            await node.give(order(instance))
        for instance in range(2, 12):
            await node.until(order(instance).pod, PodState.RUNNING, ready=True)
        made = {verb: count - before.get(verb, 0) for verb, count in node.engine.calls.items()}
        assert (made["create"], made["start"], made["container"]) == (10, 10, 10)
        assert made["image"] == made["containers"] == 0


async def test_a_container_whose_making_was_not_confirmed_is_taken_over(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = node.engine.create

    async def lost_answer(spec: ContainerSpec) -> str:
        await make(spec)
        monkeypatch.setattr(node.engine, "create", make)
        raise EngineUnavailable("the answer was lost")

    monkeypatch.setattr(node.engine, "create", lost_answer)
    async with node.agent():
        seen = await node.until(await node.give(order()), PodState.RUNNING, ready=True)
        assert seen.restarts == 0 and node.engine.calls["create"] in (1, 2)
        assert len(await node.engine.containers({})) == 1


async def test_somebody_elses_container_of_that_name_is_not_touched(node: Node) -> None:
    pod = order().pod
    theirs = await node.engine.create(ContainerSpec(str(pod), "app@sha256:1", {}, Limits(16 * MIB)))
    async with node.agent():
        seen = await node.until(await node.give(order()), PodState.FAILED)
        assert "not ours" in seen.error
        found = await node.engine.container(theirs)
        assert found is not None and found.state is ContainerState.CREATED


async def test_an_address_somebody_else_took_is_not_insisted_on(node: Node) -> None:
    async with node.agent():
        first = await node.until(await node.give(order(1)), PodState.RUNNING)
        taken = first.address.rsplit(".", 1)[0] + ".3"
        theirs = ContainerSpec("theirs", "app@sha256:1", {}, Limits(16 * MIB), network="lain", address=taken)
        await node.engine.start(await node.engine.create(theirs))
        second = await node.until(await node.give(order(2)), PodState.RUNNING, ready=True)
        assert second.address not in (taken, first.address)


async def test_the_engine_away_at_the_start_is_waited_for(node: Node) -> None:
    with node.engine.outage():
        async with node.agent():
            await node.give(order())
            alive = await eventually(lambda: Records(node.store, keys.ALIVE, Alive).get("n1"), what="presence")
            assert alive is not None
            assert await node.see(order().pod) is None
    async with node.agent():
        await node.until(order().pod, PodState.RUNNING, ready=True)


async def test_a_node_is_back_only_once_it_has_said_what_runs(node: Node) -> None:
    """What ``observed`` says of it is from before; while the Engine is away nobody knows better."""
    pod = order().pod
    presence = Records(node.store, keys.ALIVE, Alive)
    async with node.agent():
        await node.give(order())
        await node.until(pod, PodState.RUNNING, ready=True)
    (entry,) = (await node.store.list(keys.ALIVE.prefix)).entries
    await node.store.revoke(entry.lease)
    with node.engine.outage():
        async with node.agent():
            asked = node.engine.calls["info"]
            await eventually(lambda: node.engine.calls["info"] > asked + 3, what="it looks for the Engine")
            assert await presence.get("n1") is None
    async with node.agent():
        await eventually(lambda: presence.get("n1"), what="presence")


async def test_what_must_be_alone_is_made_when_its_predecessor_is_gone(node: Node) -> None:
    first = replace(order(), recreate=True)
    second = replace(first, generation=first.generation + 1)
    async with node.agent():
        await node.until(await node.give(first), PodState.RUNNING)
        await node.until(await node.give(second), PodState.PENDING, progress=f"waiting until {first.pod} is gone")
        await node.give(replace(first, run=False))
        await node.until(second.pod, PodState.RUNNING)
        assert await node.see(first.pod) is None


async def test_two_containers_of_one_pod_become_one(node: Node) -> None:
    async with node.agent():
        pod = await node.give(order())
        seen = await node.until(pod, PodState.RUNNING)
    labels = {"lain.pod": str(pod), "lain.node": "n1"}
    await node.engine.create(ContainerSpec("a-copy", "app@sha256:1", labels, Limits(32 * MIB)))
    async with node.agent():
        await eventually(lambda: _only(node, seen.container_id), what="the copy is gone")


async def _only(node: Node, container: str) -> bool:
    return [found.id for found in await node.engine.containers({"lain.pod": ""})] == [container]


@pytest.mark.parametrize("disk", ["kept", "lost"])
async def test_an_unreadable_assignment_stops_nothing(node: Node, disk: str) -> None:
    async with node.agent(resync_seconds=0.2):
        pod = await node.give(order(1))
        before = await node.until(pod, PodState.RUNNING, ready=True)
        await node.store.put(keys.ASSIGN.key("n1", str(pod)), b'{"v":99}')
        await node.until(await node.give(order(2)), PodState.RUNNING)
    if disk == "lost":
        (node.directory / "state/agent.json").unlink()
    async with node.agent(resync_seconds=0.2):
        await node.until(await node.give(order(3)), PodState.RUNNING)
        seen = await node.until(pod, PodState.RUNNING, ready=True)
        assert (seen.container_id, seen.started_at) == (before.container_id, before.started_at)


async def test_writes_whose_fate_is_unknown_are_looked_at_again(node: Node) -> None:
    async with node.agent():
        pod = await node.give(order(1))
        await node.until(pod, PodState.RUNNING)
        for applied in (True, False, True):
            node.store.uncertain_next(applied=applied)
            containers = await node.engine.containers({"lain.pod": str(pod)})
            started = containers[0].started_at
            node.engine.end(containers[0].id, 1)

            async def again(started: float | None = started) -> bool:
                seen = await node.see(pod)
                return seen is not None and seen.state is PodState.RUNNING and seen.started_at != started

            await eventually(again, what="observed is right in the end")


async def test_blocks_are_claimed_once_and_kept(node: Node) -> None:
    blocks = Records(node.store, keys.BLOCKS, Block)
    await blocks.put(Block("172.20.1.0/24", "other"), "172.20.1.0/24")
    for _ in range(2):
        async with node.agent():
            state = await eventually(lambda: _with_block(node), what="the block is told")
            assert state == "172.20.2.0/24"
    assert len(await blocks.list()) == 2


async def _with_block(node: Node) -> str:
    stored = await Records(node.store, keys.NODES_STATE, NodeState).get("n1")
    return "" if stored is None else stored.value.block


async def test_a_taken_block_is_a_problem_that_is_told(node: Node) -> None:
    await Records(node.store, keys.BLOCKS, Block).put(Block("172.20.9.0/24", "other"), "172.20.9.0/24")
    async with node.agent(block="172.20.9.0/24"):
        pod = await node.give(order())
        seen = await node.until(pod, PodState.PENDING)
        assert "no address is free" in seen.error

        async def told() -> bool:
            stored = await Records(node.store, keys.NODES_STATE, NodeState).get("n1")
            return stored is not None and any("belongs to node other" in problem for problem in stored.value.problems)

        await eventually(told, what="the problem is told")


async def test_memory_in_use_is_not_taken_away(node: Node) -> None:
    async with node.agent():
        wanted = order(memory_bytes=64 * MIB)
        pod = await node.give(wanted)
        await node.until(pod, PodState.RUNNING)
        node.engine.used_bytes = 30 * MIB
        await node.give(replace(wanted, template=replace(wanted.template, memory_bytes=20 * MIB)))
        refused = "memory stays at 64 MiB: 30.0 MiB are in use, more than the 20 MiB wanted"
        await node.until(pod, PodState.RUNNING, error=refused, memory_bytes=64 * MIB)
        await node.give(replace(wanted, template=replace(wanted.template, memory_bytes=40 * MIB)))
        await node.until(pod, PodState.RUNNING, error="", memory_bytes=40 * MIB)


async def test_a_shortage_of_addresses_is_taken_back_as_soon_as_it_is_over(node: Node) -> None:
    """What the node says of its addresses is what placement refuses by: a moment's shortage must not be believed for half a minute."""
    key = keys.ENDPOINTS.key("other", "web")
    await node.store.put(key, b"not a document")

    async def free() -> int | None:
        stored = await Records(node.store, keys.NODES_STATE, NodeState).get("n1")
        return None if stored is None else stored.value.free_addresses

    async with node.agent():
        await eventually(
            lambda: _is(free, lambda count: count == 0), what="nothing is free while a record cannot be read"
        )
        await node.store.delete(key)
        await eventually(
            lambda: _is(free, lambda count: count > 200), what="the block is free again", timeout_seconds=5
        )


async def _is(ask: Callable[[], Awaitable[int | None]], holds: Callable[[int], bool]) -> bool:
    found = await ask()
    return found is not None and holds(found)
