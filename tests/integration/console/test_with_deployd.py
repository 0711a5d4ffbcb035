"""Console and controller together, both real: what one writes the other understands. Agents and routers answer as theirs would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from lain_deployd.main import build
from lain_deployd.settings import Settings
from lain_sdk.api_types import Accepted
from lain_sdk.client import Console
from lain_shared.daemon import Health
from lain_shared.model.app import HistoryRecord, Outcome
from lain_shared.model.pod import Assignment, Observed, PodState, ProcType
from lain_shared.store import Store
from lain_shared.testing import eventually
from tests.fixtures.console import ClusterForConsole, cluster_on, manifest
from tests.fixtures.parts import running
from tests.fixtures.registry import ImageRegistry
from tests.integration.deployd.fake_parts import FakeAgent, FakeRouter

QUICK = "drain_seconds: 0"


class Agent(FakeAgent):
    """As the fake one; oneshots end at once, and well."""

    async def _run(self, pod: str, order: Assignment, revision: int, seen: Observed | None) -> None:
        if order.type is not ProcType.ONESHOT:
            await super()._run(pod, order, revision, seen)
        elif seen is None:
            self.started.append(pod)
            ended = Observed(
                order.app, order.proc, order.instance, order.generation, PodState.EXITED, revision, exit_code=0
            )
            await self._observed.put(ended, self.node, pod)


@dataclass
class Stage:
    cluster: ClusterForConsole
    agent: FakeAgent
    router: FakeRouter
    lain: Console

    async def done(self, accepted: Accepted) -> HistoryRecord:
        assert accepted.operation is not None, accepted.plan
        async with asyncio.timeout(30):
            return await self.lain.wait("hello", accepted.operation.id)

    async def deploy(self, version: str, procs: str) -> HistoryRecord:
        await self.cluster.release(version, manifest(procs=procs))
        return await self.done(await self.lain.deploy("hello", version))

    async def pods(self) -> dict[str, list[tuple[int, int, bool]]]:
        app = await self.lain.app("hello")
        return {
            proc.name: sorted((pod.instance, pod.release, pod.ready) for pod in proc.pods if not pod.draining)
            for proc in app.procs
        }

    def served(self) -> dict[str, set[str]]:
        """Route → addresses, as the router has them."""
        found: dict[str, set[str]] = {}
        for endpoints in self.router.table.values():
            for route in endpoints.routes:
                found.setdefault(str(route), set()).update(each.address for each in endpoints.ready)
        return found


@pytest.fixture
async def stage(store: Store, image_registry: ImageRegistry, tmp_path: Path) -> AsyncIterator[Stage]:
    async with cluster_on(store, image_registry, tmp_path, acting=False) as cluster, AsyncExitStack() as stack:
        agent, router = Agent(store, "n1"), FakeRouter(store, "r1")
        await agent.join()
        await router.join()
        daemon = build(Settings(etcd=("x",), id="d1", listen="127.0.0.1", port=0), Health(), store)
        await stack.enter_async_context(running(agent, router))
        await stack.enter_async_context(running(*daemon.parts))
        lain = await cluster.client(await cluster.console())
        await lain.register("hello")
        yield Stage(cluster, agent, router, lain)


WEB = f"web: {{cmd: serve, port: 8000, num_instances: 2, {QUICK}}}"


async def test_deploy_upgrade_roll_back_undeploy(stage: Stage) -> None:
    assert (await stage.deploy("1-aaa", WEB)).outcome is Outcome.SUCCEEDED
    assert await stage.pods() == {"web": [(1, 1, True), (2, 1, True)]}
    assert len(stage.served()["hello.lain.localhost"]) == 2
    assert (await stage.deploy("2-bbb", WEB)).outcome is Outcome.SUCCEEDED
    assert await stage.pods() == {"web": [(1, 2, True), (2, 2, True)]}
    assert (await stage.done(await stage.lain.rollback("hello"))).outcome is Outcome.SUCCEEDED
    assert (await stage.lain.app("hello")).meta_version == "1-aaa"
    assert (await stage.done(await stage.lain.undeploy("hello"))).outcome is Outcome.SUCCEEDED
    assert stage.served() == {}
    await eventually(lambda: empty(stage), what="every order is gone")


async def empty(stage: Stage) -> bool:
    return not await stage.cluster.state.assignments.list() and not await stage.cluster.state.status.list()


async def test_procs_and_routes_come_and_go_and_move(stage: Stage) -> None:
    api = f"web.api: {{cmd: api, port: 9000, mountpoint: [api.example.org], {QUICK}}}"
    await stage.deploy("1-aaa", f"{WEB}\n{api}\nworker.old: {{cmd: work}}")
    before = stage.served()
    assert {"hello.lain.localhost", "api.example.org"} <= before.keys()
    moved = f"web: {{cmd: serve, port: 8000, mountpoint: [api.example.org], {QUICK}}}\nworker.new: {{cmd: work}}"
    assert (await stage.deploy("2-bbb", moved)).outcome is Outcome.SUCCEEDED
    after = stage.served()
    assert after["api.example.org"] == after["hello.lain.localhost"] != before["api.example.org"]
    assert set(await stage.pods()) == {"web", "new"}
    claims = await stage.cluster.state.all_claims()
    assert claims.routes["api.example.org", "/"].value.proc == "web"
    for moment in stage.router.history[len(before) :]:
        assert moment.ready, "at no moment was nobody ready"


async def test_scale_restart_stop_start_env(stage: Stage) -> None:
    await stage.deploy("1-aaa", WEB)
    await stage.done(await stage.lain.scale("hello", "web", 3))
    assert len((await stage.pods())["web"]) == 3
    await stage.done(await stage.lain.scale("hello", "web", reset=True))
    await eventually(lambda: has(stage, 2), what="the third is gone")
    started = len(stage.agent.started)
    await stage.done(await stage.lain.scale("hello", "web", memory="64m"))
    assert len(stage.agent.started) == started, "limits change in place"
    await stage.done(await stage.lain.restart("hello", "web", 1))
    assert len(stage.agent.started) == started + 1
    await stage.done(await stage.lain.stop("hello"))
    await eventually(lambda: has(stage, 0), what="all are stopped")
    await stage.done(await stage.lain.start("hello"))
    assert len((await stage.pods())["web"]) == 2
    await stage.done(await stage.lain.set_env("hello", {"MODE": "x"}))
    assert await stage.pods() == {"web": [(1, 2, True), (2, 2, True)]}


async def has(stage: Stage, count: int) -> bool:
    return len((await stage.pods())["web"]) == count


async def test_an_operation_ends_where_nothing_fits_and_the_good_release_serves_on(stage: Stage) -> None:
    await stage.deploy("1-aaa", WEB)
    served = stage.served()["hello.lain.localhost"]
    digest = await asyncio.to_thread(stage.cluster.images.push, "hello", "tool", {"x": b""})
    text = manifest(procs=WEB.replace("serve,", f"serve, image: 'crash@{digest}', "))
    await asyncio.to_thread(stage.cluster.images.push, "crash", "x", {"x": b""})
    await stage.cluster.release("2-bbb", text)
    record = await stage.done(await stage.lain.deploy("hello", "2-bbb"))
    assert record.outcome is Outcome.ROLLED_BACK and record.failure is not None
    assert record.failure.code == "crashes_before_ready"
    assert stage.served()["hello.lain.localhost"] == served, "the old pods served all the while"


async def test_a_migration_runs_once_before_the_rest(stage: Stage) -> None:
    record = await stage.deploy("1-aaa", f"{WEB}\noneshot.migrate: {{cmd: migrate}}")
    assert record.outcome is Outcome.SUCCEEDED, record.failure
    assert [pod for pod in stage.agent.started if "migrate" in pod] == stage.agent.started[:1]
