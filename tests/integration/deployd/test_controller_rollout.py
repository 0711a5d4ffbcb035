"""The controller on real etcd, with agents and a router that answer as theirs would: from ``desired`` to endpoints and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from lain_deployd.main import build
from lain_deployd.settings import Settings
from lain_shared import keys
from lain_shared.daemon import Daemon, Health
from lain_shared.etcd import EtcdStore
from lain_shared.model.pod import Desired, PodTemplate, ProcType
from lain_shared.model.route import Endpoints, Route
from lain_shared.model.status import ProcPhase, ProcStatus
from lain_shared.records import Records
from lain_shared.store import Store
from lain_shared.testing import eventually
from tests.fixtures.parts import running
from tests.integration.deployd.fake_parts import FakeAgent, FakeRouter


def wanted(**more: object) -> Desired:
    fields: dict[str, object] = {
        "type": ProcType.WEB, "release": 1, "template": PodTemplate("good", port=8000), "instances": 2,
        "routes": (Route("hello.lain.localhost"),), "drain_seconds": 0.2,
    }  # fmt: skip
    return Desired(app="hello", proc="web", **{**fields, **more})  # type: ignore[arg-type]


@dataclass
class Stage:
    store: Store
    agent: FakeAgent
    router: FakeRouter

    async def want(self, desired: Desired) -> int:
        return await Records(self.store, keys.DESIRED, Desired).put(desired, desired.app, desired.proc)

    async def status(self) -> ProcStatus:
        found = await Records(self.store, keys.STATUS, ProcStatus).get("hello", "web")
        assert found is not None
        return found.value

    async def endpoints(self) -> Endpoints:
        found = await Records(self.store, keys.ENDPOINTS, Endpoints).get("hello", "web")
        assert found is not None
        return found.value

    def stable(self, revision: int) -> Callable[[], Awaitable[ProcStatus]]:
        async def look() -> ProcStatus:
            status = await self.status()
            assert (status.desired_revision, status.phase) == (revision, ProcPhase.STABLE), status.message
            return status

        return look


def replica(store: Store, name: str, **more: float) -> Daemon:
    return build(Settings(etcd=("x",), id=name, listen="127.0.0.1", port=0, **more), Health(), store)  # type: ignore[arg-type]


@asynccontextmanager
async def stage(store: Store, *replicas: Daemon) -> AsyncIterator[Stage]:
    agent, router = FakeAgent(store, "n1"), FakeRouter(store, "r1")
    await agent.join()
    await router.join()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(agent, router))
        for daemon in replicas:
            await stack.enter_async_context(running(*daemon.parts))
        yield Stage(store, agent, router)


async def test_from_desired_to_endpoints_and_status(store: EtcdStore) -> None:
    async with stage(store, replica(store, "one")) as on:
        status = await eventually(on.stable(await on.want(wanted())))
        endpoints = await on.endpoints()
        assert (status.wanted, status.updated, status.ready) == (2, 2, 2)
        assert [route.host for route in endpoints.routes] == ["hello.lain.localhost"]
        assert len(endpoints.ready) == 2 and not endpoints.draining


async def test_a_release_is_never_without_two_ready_pods(store: EtcdStore) -> None:
    async with stage(store, replica(store, "one")) as on:
        await eventually(on.stable(await on.want(wanted())))
        served = len(on.router.history)
        new = wanted(release=2, template=PodTemplate("good2", port=8000))
        await eventually(on.stable(await on.want(new)))
        assert all(len(each.ready) == 2 for each in on.router.history[served:])
        await eventually(lambda: len(on.agent.stopped) == 2, what="the old pods are stopped")


async def test_undeploying_leaves_nothing(store: EtcdStore) -> None:
    async with stage(store, replica(store, "one")) as on:
        await eventually(on.stable(await on.want(wanted())))
        await store.delete(keys.DESIRED.key("hello", "web"))

        async def gone() -> bool:
            families = (keys.ASSIGN, keys.OBSERVED, keys.ENDPOINTS, keys.STATUS)
            return not [entry for family in families for entry in (await store.list(family.prefix)).entries]

        await eventually(gone)


async def test_another_replica_goes_on_where_the_leader_stopped(store: EtcdStore) -> None:
    first, second = replica(store, "one"), replica(store, "two")
    async with stage(store, second) as on:
        async with running(*first.parts):
            await eventually(on.stable(await on.want(wanted())))
            revision = await on.want(wanted(release=2, template=PodTemplate("good2", port=8000)))
        await eventually(on.stable(revision))
        await eventually(
            lambda: sorted(on.agent.stopped) == sorted(on.agent.started[:2]), what="the old pods are stopped"
        )
        assert len(on.agent.started) == 4


@pytest.mark.parametrize("family", [keys.STATUS, keys.ENDPOINTS], ids=["status", "endpoints"])
async def test_a_key_deleted_by_hand_is_written_again(store: EtcdStore, family: keys.Family) -> None:
    async with stage(store, replica(store, "one")) as on:
        await eventually(on.stable(await on.want(wanted())))
        started = list(on.agent.started)
        await store.delete(family.key("hello", "web"))
        await eventually(lambda: store.get(family.key("hello", "web")), 2.0)
        await eventually(on.stable((await on.status()).desired_revision))
        assert len((await on.endpoints()).ready) == 2
        assert on.agent.started == started
