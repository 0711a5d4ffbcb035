"""What the agent survives: its own restart, the Engine's, etcd away. No container is restarted for it, none is taken for lost."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lain_shared import conditions, keys
from lain_shared.model.node import ConditionStatus
from lain_shared.model.pod import Observed, PodState, ProcType
from lain_shared.model.route import Endpoint, Endpoints, RouterMember, RouterState
from lain_shared.records import Records
from lain_shared.testing import MemoryStore, eventually
from tests.fixtures.docker import OwnEngine
from tests.integration.deployd.agent_harness import NODE, Bench, order, template

WEB = ("httpd", "-f", "-p", "8000")


@pytest.fixture
async def bench(engine: OwnEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(MemoryStore(), engine, tmp_path)
    await made.prepare()
    yield made


@pytest.fixture
async def fresh(fresh_engine: OwnEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(MemoryStore(), fresh_engine, tmp_path)
    await made.prepare()
    yield made


def memory(bench: Bench) -> MemoryStore:
    assert isinstance(bench.store, MemoryStore)
    return bench.store


@pytest.mark.parametrize("disk", ["kept", "lost"])
async def test_an_agents_restart_is_seen_by_nobody(bench: Bench, disk: str) -> None:
    async with bench.agent():
        web = await bench.give(order(template(*WEB, port=8000), type=ProcType.WEB))
        dies = await bench.give(order(template("sh", "-c", "sleep 1; exit 1"), instance=2))
        before = await bench.until(web, PodState.RUNNING, ready=True)
        await bench.until(dies, PodState.RUNNING)
    alive = await bench.alive.get(NODE)
    assert alive is not None
    if disk == "lost":
        shutil.rmtree(bench.directory / "state")
    seen: list[Observed] = []

    async def watch() -> None:
        async for batch in memory(bench).watch(
            keys.OBSERVED.key(NODE, str(web)), start_revision=memory(bench).revision + 1
        ):
            for change in batch.items:
                assert change.value is not None, "observed was deleted"
                seen.append(bench.observed.decode(change.key, change.value))

    watching = asyncio.create_task(watch())
    async with bench.agent():
        await bench.until(dies, PodState.RUNNING, seconds=20)  # it died while nobody looked
        after = await bench.until(web, PodState.RUNNING, ready=True)
        await bench.until(dies, PodState.BACKOFF, seconds=20)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert (after.started_at, after.container_id, after.address) == (
        before.started_at,
        before.container_id,
        before.address,
    )
    assert all(one.ready and one.state is PodState.RUNNING for one in seen), seen
    again = await bench.alive.get(NODE)
    assert again is not None
    if disk == "kept":
        assert again.entry.lease == alive.entry.lease


async def test_with_etcd_away_pods_live_crash_and_come_back(bench: Bench) -> None:
    async with bench.agent():
        stays = await bench.give(order(template()))
        dies = await bench.give(order(template("sh", "-c", "sleep 1; exit 1"), instance=2))
        before = await bench.until(stays, PodState.RUNNING, ready=True)
        await bench.until(dies, PodState.RUNNING)
        with memory(bench).outage():
            started = bench.engine.docker("inspect", str(dies), "--format", "{{.State.StartedAt}}")
            await eventually(
                lambda: _started(bench, str(dies)) not in ("", started.strip()),
                20,
                what="it was restarted without etcd",
            )
        await bench.until(dies, restarts=2, seconds=20)
        after = await bench.see(stays)
        assert after == before


def _started(bench: Bench, name: str) -> str:
    return bench.engine.docker("inspect", name, "--format", "{{if .State.Running}}{{.State.StartedAt}}{{end}}").strip()


async def test_an_agent_that_starts_without_etcd_keeps_what_it_knows(bench: Bench) -> None:
    async with bench.agent():
        pod = await bench.give(order(template()))
        orphan = order(template(), instance=2)
        await bench.give(orphan)
        await bench.until(pod, PodState.RUNNING, ready=True)
        await bench.until(orphan.pod, PodState.RUNNING, ready=True)
    await bench.assign.delete(NODE, str(orphan.pod))
    bench.engine.docker("kill", str(pod))
    with memory(bench).outage():
        async with bench.agent():
            await eventually(
                lambda: _started(bench, str(pod)), 20, what="the dead one is started from the disk's picture"
            )
            assert len(bench.containers(everything=False)) == 2, "nothing is stopped on missing evidence"
    async with bench.agent():
        await eventually(lambda: bench.gone(orphan.pod), what="what the store no longer has is stopped")
        assert bench.containers() == [str(pod)]


async def test_the_engines_restart_restarts_no_container(fresh: Bench) -> None:
    async with fresh.agent():
        pod = await fresh.give(order(template(*WEB, port=8000), type=ProcType.WEB))
        before = await fresh.until(pod, PodState.RUNNING, ready=True)
        fresh.engine.stop_daemon(signal.SIGKILL)
        state = await eventually(lambda: _unreachable(fresh), what="the node says its Engine is away")
        assert any("does not answer" in problem for problem in state)
        fresh.engine.start_daemon()
        await eventually(lambda: _reachable(fresh), what="the node says its Engine is back")
        assert await fresh.see(pod) == before
        fresh.engine.docker("kill", str(pod))
        await fresh.until(pod, PodState.RUNNING, ready=True, restarts=1)  # and events are heard again


async def test_an_agent_that_starts_beside_a_dead_engine_says_so(fresh: Bench) -> None:
    async with fresh.agent():
        await eventually(lambda: _reachable(fresh), what="the node says what it has")
    fresh.engine.stop_daemon()
    async with fresh.agent():
        await eventually(lambda: _unreachable(fresh), what="the node says its Engine is away")
        stored = await fresh.states.get(NODE)
        assert stored is not None and stored.value.cpus >= 1, "what the node has is as it was"
        found = {one.type: one.status for one in stored.value.conditions}
        assert found[conditions.ENGINE_UNREACHABLE] is ConditionStatus.TRUE
        assert found[conditions.LIVE_RESTORE_OFF] is ConditionStatus.UNKNOWN
        fresh.engine.start_daemon()
        await eventually(lambda: _reachable(fresh), what="the node says its Engine is back")


async def test_an_agents_restart_never_says_that_a_living_engine_is_away(bench: Bench) -> None:
    async with bench.agent():
        await eventually(lambda: _reachable(bench), what="the node says what it has")
    since, said = memory(bench).revision, list[bool]()

    async def watch() -> None:
        async for batch in memory(bench).watch(keys.NODES_STATE.key(NODE), start_revision=since + 1):
            for change in batch.items:
                said.append(bench.states.decode(change.key, change.value or b"").engine_reachable)

    watching = asyncio.create_task(watch())
    async with bench.agent() as agent:
        await eventually(lambda: all(part.ready for part in agent.parts), what="everything was looked at")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert False not in said


async def _unreachable(bench: Bench) -> tuple[str, ...]:
    stored = await bench.states.get(NODE)
    return () if stored is None or stored.value.engine_reachable else stored.value.problems


async def _reachable(bench: Bench) -> bool:
    stored = await bench.states.get(NODE)
    return stored is not None and stored.value.engine_reachable


@pytest.mark.parametrize("agent", ["stays", "restarts"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_exit_across_an_engines_start_is_no_crash(fresh: Bench, agent: str, number: signal.Signals) -> None:
    fresh.engine.stop_daemon()
    fresh.engine.live_restore = False
    fresh.engine.start_daemon()
    wanted = order(template("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"))

    def restart() -> None:
        fresh.engine.stop_daemon(number)
        fresh.engine.start_daemon()

    async with fresh.agent():
        pod = await fresh.give(wanted)
        before = await fresh.until(pod, PodState.RUNNING, ready=True)
        if agent == "stays":
            await asyncio.to_thread(restart)
            after = await _again(fresh, before)
    if agent == "restarts":
        restart()
        async with fresh.agent():
            after = await _again(fresh, before)
    assert (after.restarts, after.address, after.generation) == (0, before.address, before.generation)
    assert after.evidence is None


async def _again(bench: Bench, before: Observed) -> Observed:
    async def look() -> Observed | None:
        seen = await bench.see(before.pod)
        running = seen is not None and seen.state is PodState.RUNNING and seen.ready and seen.restarts == 0
        return seen if running and seen is not None and seen.started_at != before.started_at else None

    found = await eventually(look, 20, what="it runs again, and did not crash")
    assert found is not None
    return found


async def test_an_address_rests_while_anybody_may_still_send_to_it(bench: Bench) -> None:
    members = Records(bench.store, keys.ROUTER_MEMBERS, RouterMember)
    routers = Records(bench.store, keys.ROUTERS, RouterState)
    await members.put(RouterMember("r1", NODE, 0.0), "r1")
    await routers.put(RouterState("r1", 1, "boot", 0.0), "r1")
    block = bench.engine.pod_network.replace(".0.0/17", ".7.0/29")  # .2 … .6
    async with bench.agent(block=block, address_quarantine_seconds=0.5, resync_seconds=0.5):
        first = order(template())
        address = (await bench.until(await bench.give(first), PodState.RUNNING)).address
        named = Endpoints("hello", "web", 8000, draining=(Endpoint(1, first.generation, address),))
        await bench.endpoints.put(named, "hello", "web")
        await bench.retire(first)
        given: list[str] = []
        for instance in range(2, 6):
            wanted = order(template(), instance=instance)
            given.append((await bench.until(await bench.give(wanted), PodState.RUNNING)).address)
        assert address not in given and len(set(given)) == 4
        last = order(template(), instance=6)
        pod = await bench.give(last)
        seen = await bench.until(pod, PodState.PENDING)  # every other address is in use, and this one is still named
        assert seen.error.startswith("no address is free")
        revision = await bench.endpoints.put(Endpoints("hello", "web", 8000), "hello", "web")
        with pytest.raises(AssertionError):  # no longer named, rested; but the router has an older table
            await bench.until(pod, PodState.RUNNING, seconds=2)
        await routers.put(RouterState("r1", revision + 10, "boot", 1.0), "r1")
        assert (await bench.until(pod, PodState.RUNNING)).address == address
