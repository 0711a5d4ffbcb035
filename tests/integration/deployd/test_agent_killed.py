"""The agent killed at any write of it, again and again: whichever was the last, and whether it had its effect, the next agent ends where
the orders want it: one container a pod, at the address that is told, none too many, nothing that ended run again.

A kill in process: from a moment on no call of that agent has an effect any more (the last one may have had, unseen), and the next one
starts from the files as they were at that moment.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lain_deployd.agent.engine import ContainerState, Engine, EngineUnavailable, Image
from lain_deployd.agent.main import assembled
from lain_deployd.agent.settings import Settings
from lain_deployd.testing import FakeEngine
from lain_shared import keys
from lain_shared.daemon import Health, run_daemon
from lain_shared.errors import Unavailable
from lain_shared.model.config import ClusterConfig
from lain_shared.model.pod import Assignment, Observed, PodState, PodTemplate, ProcType
from lain_shared.records import Records
from lain_shared.store import Store
from lain_shared.testing import MemoryStore, eventually

MIB = 1024 * 1024
WRITES = {"create", "start", "stop", "kill", "remove", "update", "put", "delete", "txn", "grant", "keep_alive", "pull"}


class Fate:
    """Counts an agent's calls and kills it at the chosen one, before or after that call's effect."""

    def __init__(self, at: int, *, after: bool, on_death: Callable[[], None]) -> None:
        self.left, self._after, self._on_death = at, after, on_death
        self.dead = asyncio.Event()

    async def call(self, what: Callable[..., Any], kind: type[Exception], *args: Any, **more: Any) -> Any:
        await asyncio.sleep(0)
        if self.dead.is_set():
            raise kind("killed")
        self.left -= 1
        if self.left > 0:
            return await what(*args, **more)
        try:
            if self._after:
                await what(*args, **more)
        finally:
            self.dead.set()
            self._on_death()
        raise kind("killed")


class Mortal:
    """A store or an Engine as the agent of one ``Fate`` reaches it."""

    def __init__(self, inner: Any, fate: Fate, kind: type[Exception]) -> None:
        self._inner, self._fate, self._kind = inner, fate, kind

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in WRITES:
            return found

        async def call(*args: Any, **more: Any) -> Any:
            return await self._fate.call(found, self._kind, *args, **more)

        return call


class Site:
    """A node whose agent is killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = MemoryStore()
        self.engine = FakeEngine(images={"app@sha256:1": Image("1", (), MIB)})
        self.engine.registry["late@sha256:1"] = Image("2", ("late@sha256:1",), MIB)
        self.orders: dict[str, Assignment] = {}
        self.lives = 0

    @asynccontextmanager
    async def agent(self, at: int, *, after: bool) -> AsyncIterator[Fate]:
        """An agent that dies at its ``at``-th write. What it leaves on disk is what the next one finds."""
        self.lives += 1
        here, following = (self.directory / str(number) for number in (self.lives, self.lives + 1))
        here.mkdir(exist_ok=True)

        def died() -> None:
            shutil.copytree(here, following, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.new"))

        fate, health, stop = Fate(at, after=after, on_death=died), Health(), asyncio.Event()
        settings = Settings(
            etcd=("x",), node="n1", listen="127.0.0.1", port=0, state_dir=here, grace_seconds=0.05,
            volumes_root=self.directory / "volumes", address_quarantine_seconds=0.0,
        )  # fmt: skip
        store: Store = Mortal(self.store, fate, Unavailable)  # type: ignore[assignment]
        engine: Engine = Mortal(self.engine, fate, EngineUnavailable)  # type: ignore[assignment]
        running = asyncio.create_task(run_daemon(assembled(settings, health, store, engine), health=health, stop=stop))
        try:
            yield fate
        finally:
            if not fate.dead.is_set():
                fate.dead.set()
                died()
            stop.set()
            await running

    async def give(self, wanted: Assignment) -> None:
        self.orders[str(wanted.pod)] = wanted
        await Records(self.store, keys.ASSIGN, Assignment).put(wanted, "n1", str(wanted.pod))

    async def take_away(self, pod: str) -> None:
        del self.orders[pod]
        await Records(self.store, keys.ASSIGN, Assignment).delete("n1", pod)

    async def as_ordered(self) -> bool:
        """Everything is as the orders want it."""
        seen = {one.value.pod: one.value for one in await Records(self.store, keys.OBSERVED, Observed).list()}
        containers = await self.engine.containers({"lain.pod": ""})
        assert {str(pod) for pod in seen} == {pod for pod, order in self.orders.items() if order.run}, seen
        by_pod: dict[str, list[Any]] = {}
        for container in containers:
            by_pod.setdefault(container.labels["lain.pod"], []).append(container)
        assert all(len(those) == 1 for those in by_pod.values()), by_pod
        assert set(by_pod) == {str(pod) for pod in seen}, (set(by_pod), seen)
        for pod, one in seen.items():
            (container,) = by_pod[str(pod)]
            assert (one.container_id, one.address) == (container.id, container.address), (one, container)
            if self.orders[str(pod)].type is ProcType.ONESHOT:
                assert one.state is PodState.EXITED and one.exit_code == 0, one
            else:
                assert one.ready and container.state is ContainerState.RUNNING, one
        addresses = [container.address for container in containers]
        assert len(addresses) == len(set(addresses)), addresses
        return True


def an_order(number: int, chance: random.Random) -> Assignment:
    kind = ProcType.ONESHOT if chance.random() < 0.25 else ProcType.WORKER
    image = "late@sha256:1" if chance.random() < 0.2 else "app@sha256:1"
    command = ("sh", "-c", "echo run; exit 0") if kind is ProcType.ONESHOT else ("sleep", "infinity")
    instance = chance.randint(1, 4)
    template = PodTemplate(image, command=command)
    return Assignment("hello", "web", instance, number, kind, 1, template, recreate=chance.random() < 0.3)


@pytest.mark.parametrize("seed", range(8))
async def test_the_next_agent_ends_where_the_orders_want_it(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a seeded test
    site = Site(tmp_path)
    await Records(site.store, keys.CONFIG, ClusterConfig).put(ClusterConfig("test", "lain.localhost"), "cluster")
    for number in range(1, 6):
        async with site.agent(chance.randint(1, 25), after=chance.random() < 0.5) as fate:
            for step in range(chance.randint(1, 3)):
                running = [pod for pod, order in site.orders.items() if order.run]
                if running and chance.random() < 0.4:
                    pod = chance.choice(running)
                    await site.give(replace(site.orders[pod], run=False))
                else:
                    wanted = an_order(number * 10 + step, chance)
                    for order in list(site.orders.values()):
                        if order.run and order.instance == wanted.instance:
                            await site.give(replace(order, run=False))
                    await site.give(wanted)
            alive = [one for one in await site.engine.containers({}) if one.state is ContainerState.RUNNING]
            if alive and chance.random() < 0.5:
                site.engine.end(chance.choice(alive).id, 1)
            try:
                async with asyncio.timeout(chance.choice([0.05, 0.3, 1.0])):
                    await fate.dead.wait()
            except TimeoutError:
                pass
    async with site.agent(10**9, after=False):
        await eventually(site.as_ordered, timeout_seconds=20, what="everything is as ordered")
        for pod in [pod for pod, order in site.orders.items() if not order.run]:
            await site.take_away(pod)
        await eventually(site.as_ordered, timeout_seconds=20)
    ran = [held for held in site.engine._held.values() if held.spec.labels["lain.type"] == "oneshot"]
    assert all(len([one for _, one in held.output if one.data == b"run\n"]) == 1 for held in ran)
