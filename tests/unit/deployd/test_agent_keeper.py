"""The keeper on an Engine in memory, pass by pass: clocks that are set, what is remembered, a container that cannot be looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from lain_deployd.agent.disk import Disk
from lain_deployd.agent.engine import Container, EngineEvent, EngineRefused, Image
from lain_deployd.agent.execute import Executor
from lain_deployd.agent.images import Images
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.metrics import AgentMetrics
from lain_deployd.agent.pods import LABEL_NODE, LABEL_POD, Order
from lain_deployd.agent.probes import Target
from lain_deployd.agent.spec import Place
from lain_deployd.testing import FakeEngine
from lain_shared.model.pod import Assignment, PodId, PodState, PodTemplate, ProcType
from lain_shared.testing import eventually

MIB = 1024 * 1024


class Bench:
    """A keeper whose passes the test makes, on a clock that it sets (``time.time_ns`` too)."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_700_000_000.0
        monkeypatch.setattr(time, "time_ns", lambda: int(self.now * 1e9))
        self.engine = FakeEngine(clock=self.clock, images={"app@sha256:1": Image("1", (), MIB)})
        images = Images(self.engine, lambda: None, self.clock)
        place = Place("n1", "", PurePosixPath(directory / "volumes"), 2)
        self.executor = Executor(self.engine, images, lambda: place, lambda: (), clock=self.clock)
        disk = Disk(directory / "agent.json")
        self.keeper = Keeper("n1", self.engine, self.executor, disk, AgentMetrics(), clock=self.clock)
        self.keeper.free = lambda _book: tuple(f"172.20.1.{n}" for n in range(2, 200))
        self.keeper.knows_volumes()
        self.orders: dict[PodId, Order] = {}

    def clock(self) -> float:
        self.now += 1e-6
        return self.now

    def give(self, instance: int, *, run: bool = True, command: tuple[str, ...] = ("sleep", "infinity")) -> PodId:
        template = PodTemplate("app@sha256:1", command=command)
        wanted = Assignment("hello", "web", instance, 7, ProcType.WORKER, 1, template, run=run)
        self.orders[wanted.pod] = Order(wanted, len(self.orders) + 1)
        self.keeper.ordered(self.orders)
        return wanted.pod

    def take_away(self, pod: PodId) -> None:
        del self.orders[pod]
        self.keeper.ordered(self.orders)

    async def relist(self) -> None:
        asked = time.time_ns()
        self.keeper.relisted(await self.engine.containers({LABEL_POD: "", LABEL_NODE: "n1"}), asked)

    def tell(self) -> None:
        """What the Engine's events say."""
        for event in self.engine._events:
            self.keeper.happened(event)
        self.engine._events.clear()

    async def settle(self) -> None:
        for _ in range(50):
            await self.keeper.one_pass()
            await asyncio.gather(*self.keeper._workers.values())
            await asyncio.sleep(0)
            self.tell()

    def state(self, pod: PodId) -> PodState | None:
        seen = self.keeper.report.get(pod)
        return None if seen is None else seen.state

    def container(self, pod: PodId) -> Container:
        return self.keeper.containers[pod][0]


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path, monkeypatch)
    await made.engine.ensure_network("lain", "172.20.1.0/24", "lain0")
    await made.relist()
    return made


# --- a clock that is set ----------------------------------------------------------------------------------------------


async def test_a_death_is_heard_though_the_clock_was_set_back(bench: Bench) -> None:
    pod = bench.give(1)
    await bench.settle()
    bench.now -= 3_600.0
    bench.engine.end(bench.container(pod).id, 1)
    bench.tell()
    await bench.settle()
    assert bench.state(pod) is PodState.RUNNING and bench.keeper.report[pod].restarts == 1
    assert not bench.keeper._dirty, "it is not looked at again and again"


async def test_a_back_off_is_never_longer_than_the_longest(bench: Bench) -> None:
    """Its end is a time of day: an hour's setting back would make it an hour longer."""
    pod = bench.give(1)
    await bench.settle()
    for _ in range(4):
        bench.engine.end(bench.container(pod).id, 1)
        bench.tell()
        await bench.settle()
    assert bench.state(pod) is PodState.BACKOFF
    bench.now -= 3_600.0
    await bench.settle()
    assert bench.state(pod) is PodState.RUNNING


async def test_what_is_held_after_a_failure_is_tried_again_though_the_clock_was_set_back(bench: Bench) -> None:
    pod = bench.give(1)
    await bench.settle()
    bench.keeper._hold(pod)
    bench.give(1, run=False)
    bench.now -= 3_600.0
    await bench.settle()
    assert bench.state(pod) is None


async def test_a_crash_is_one_though_the_engine_started_in_a_future_that_is_over(bench: Bench) -> None:
    """A machine that starts with a wrong clock: the Engine was new in the evening, then it was afternoon. Exits were taken for harmless and
    the pod started again without any pause."""
    bench.keeper.engine_restarted(bench.now, bench.now + 3_600.0)
    pod = bench.give(1, command=("sh", "-c", "exit 1"))
    await bench.settle()
    assert bench.state(pod) is PodState.BACKOFF
    assert bench.engine.calls["start"] == 2 and bench.keeper.report[pod].restarts == 2


# --- what is remembered -----------------------------------------------------------------------------------------------


async def test_nothing_is_remembered_of_pods_that_are_gone(bench: Bench) -> None:
    for instance in range(1, 6):
        pod = bench.give(instance)
        await bench.settle()
        bench.keeper.became_ready(Target(pod, "x", bench.now, ""), True, "")
        bench.give(instance, run=False)
        await bench.settle()
        bench.keeper._hold(pod)
        bench.keeper.became_ready(Target(pod, "x", bench.now, ""), True, "")
        bench.take_away(pod)
        bench.keeper.happened(EngineEvent(time.time_ns() + 1, "destroy", "x", {LABEL_POD: str(pod), LABEL_NODE: "n1"}))
        await bench.settle()
    keeper = bench.keeper
    kept = (keeper.memory, keeper.health, keeper.containers, keeper._held, keeper._looked_nano, keeper._dirty)
    assert not any(kept), kept


async def test_a_container_that_has_to_go_does_so_though_its_pod_is_being_seen_to(bench: Bench) -> None:
    pod = bench.give(1)
    await bench.settle()
    known, before = bench.orders[pod], bench.container(pod)
    larger = replace(known.assignment.template, memory_bytes=128 * MIB)
    bench.orders[pod] = Order(replace(known.assignment, template=larger), known.revision + 1)
    bench.keeper.ordered(bench.orders)
    await bench.keeper.one_pass()
    assert pod in bench.keeper._workers
    assert bench.keeper.discard(pod, before.id, "it wrote too much")
    assert not bench.keeper.discard(pod, before.id, "it wrote too much"), "once is enough"
    await bench.settle()
    assert bench.state(pod) is PodState.RUNNING and bench.container(pod).id != before.id
    evidence = bench.keeper.report[pod].evidence
    assert evidence is not None and evidence.reason == "disk_full" and "too much" in evidence.text
    assert not bench.keeper._to_discard


# --- one that cannot be looked at -------------------------------------------------------------------------------------


async def test_a_container_that_cannot_be_looked_at_hides_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, well = bench.give(1), bench.give(2)
    await bench.settle()
    found = bench.engine.containers

    async def refuses(labels: Mapping[str, str]) -> tuple[Container, ...]:
        if labels[LABEL_POD] == str(broken):
            raise EngineRefused("containers cannot be listed", why="layer does not exist")
        return await found(labels)

    monkeypatch.setattr(bench.engine, "containers", refuses)
    for pod in (broken, well):
        bench.engine.end(bench.container(pod).id, 1)
    bench.tell()
    await bench.settle()
    assert bench.state(well) is PodState.RUNNING and bench.keeper.report[well].restarts == 1
    monkeypatch.setattr(bench.engine, "containers", found)
    await eventually(lambda: bench.keeper._dirty, what="it is looked at again")
    await bench.settle()
    assert bench.state(broken) is PodState.RUNNING and bench.keeper.report[broken].restarts == 1
