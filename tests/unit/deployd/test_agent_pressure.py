"""Who has to go so that the disk keeps room, and how: pure planning, and the way a container goes with what it wrote."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_deployd.agent.disk import Disk as StateFile
from lain_deployd.agent.engine import Container, ContainerSpec, ContainerState, EngineRefused, EngineUnavailable, Image
from lain_deployd.agent.execute import Executor
from lain_deployd.agent.images import Images
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.limits import limits_of
from lain_deployd.agent.metrics import AgentMetrics
from lain_deployd.agent.plan import next_step
from lain_deployd.agent.pods import Create, Ground, Health, Memory, NoteExit, Order, Remove, Restart, View
from lain_deployd.agent.pressure import LEAST_PERCENT, MEASURE_SECONDS, Disk, Pressure, Written, to_discard
from lain_deployd.agent.settings import Settings
from lain_deployd.agent.spec import Place
from lain_deployd.testing import FakeEngine
from lain_shared.model.pod import Assignment, PodId, PodTemplate, ProcType
from lain_shared.settings import InvalidSettings

GIB = 2**30
POD, OTHER = PodId("hello", "web", 1, 7), PodId("noisy", "worker", 1, 9)
TEMPLATE = PodTemplate("hello@sha256:1", kill_timeout_seconds=30)
CPUS = 2


def test_whoever_is_above_its_share_goes_though_the_disk_has_room() -> None:
    written = [Written(POD, "c1", 1 * GIB), Written(OTHER, "c2", 11 * GIB)]
    found = to_discard(Disk(100 * GIB, 30 * GIB), written, share_percent=10.0, high_percent=85.0)
    assert [one.container for one in found] == ["c2"]
    assert found[0].because == (
        "its files outside volumes take 11264 MiB, 11 % of the node's disk: a pod may have 10 %"
    )


def test_above_the_mark_whoever_wrote_most_goes_until_there_is_room() -> None:
    written = [
        Written(POD, "c1", 2 * GIB),
        Written(OTHER, "c2", 5 * GIB),
        Written(replace(POD, instance=2), "c3", GIB // 2),
    ]
    assert [
        one.container for one in to_discard(Disk(100 * GIB, 88 * GIB), written, share_percent=10.0, high_percent=85.0)
    ] == ["c2"]
    assert [
        one.container for one in to_discard(Disk(100 * GIB, 92 * GIB), written, share_percent=10.0, high_percent=85.0)
    ] == ["c2", "c1"]


def test_nobody_goes_in_vain_unless_the_disk_is_full() -> None:
    """Where strangers fill the disk, ending pods makes no room: they would be ended again and again."""
    written = [Written(POD, "c1", 2 * GIB), Written(OTHER, "c2", 1 * GIB)]
    for used, gone in ((87, ["c1"]), (88, ["c1", "c2"]), (89, []), (94, []), (95, ["c1", "c2"])):
        found = to_discard(Disk(100 * GIB, used * GIB), written, share_percent=10.0, high_percent=85.0)
        assert [one.container for one in found] == gone, used


@given(
    st.integers(0, 100),
    st.lists(st.integers(0, 20 * GIB), max_size=8),
    st.floats(0.5, 100.0),
    st.floats(1.0, 100.0),
)
def test_nobody_small_goes_for_others_and_nobody_goes_while_there_is_room(
    used: int, sizes: list[int], share: float, high: float
) -> None:
    disk = Disk(100 * GIB, used * GIB)
    written = [Written(replace(POD, instance=number), f"c{number}", size) for number, size in enumerate(sizes)]
    gone = {one.container for one in to_discard(disk, written, share_percent=share, high_percent=high)}
    for one in written:
        percent = disk.percent(one.size_bytes)
        if percent > share:
            assert one.container in gone
        elif used <= high or percent < LEAST_PERCENT:
            assert one.container not in gone


def container(state: ContainerState, id: str = "c1") -> Container:
    ended = state is ContainerState.EXITED
    return Container(
        id=id, name=str(POD), labels={}, state=state, image="x", limits=limits_of(TEMPLATE, CPUS), address="172.20.1.5",
        created_at=90.0, started_at=91.0, finished_at=99.0 if ended else None, exit_code=137 if ended else None,
    )  # fmt: skip


def test_a_container_that_is_discarded_is_ended_at_once_accounted_for_removed_and_made_anew() -> None:
    order = Order(Assignment(POD.app, POD.proc, 1, 7, ProcType.WORKER, 1, TEMPLATE), 3)
    memory = Memory(address="172.20.1.5", discard="c1")
    ground = Ground(100.0, True, cpus=CPUS)
    running = View(POD, order, (container(ContainerState.RUNNING),), memory, Health(91.0, restart_because="too much"))
    assert next_step(running, ground) == Restart(POD, "c1", 0, "too much")
    ended = replace(running, containers=(container(ContainerState.EXITED),))
    assert isinstance(next_step(ended, ground), NoteExit)
    noted = replace(ended, memory=replace(memory, exit_seen_at=99.0, retry_at=200.0))
    assert next_step(noted, ground) == Remove(POD, "c1"), "what it wrote does not wait for the back-off"
    assert next_step(replace(noted, containers=()), ground) is None
    assert next_step(replace(noted, containers=()), replace(ground, now=201.0)) == Create(POD, "172.20.1.5")
    again = replace(noted, containers=(container(ContainerState.EXITED, "c2"),))
    step = next_step(replace(again, memory=replace(noted.memory or Memory(), retry_at=0.0)), ground)
    assert not isinstance(step, Remove), "the next container is another matter"


def test_what_a_oneshot_that_is_done_left_behind_goes_and_it_does_not_run_again() -> None:
    order = Order(Assignment(POD.app, POD.proc, 1, 7, ProcType.ONESHOT, 1, TEMPLATE), 3)
    memory = Memory(address="172.20.1.5", exit_seen_at=99.0, done_exit_code=0, discard="c1")
    ground = Ground(100.0, True, cpus=CPUS)
    done = View(POD, order, (container(ContainerState.EXITED),), memory)
    assert next_step(done, ground) == Remove(POD, "c1")
    assert next_step(replace(done, containers=(container(ContainerState.REMOVING),)), ground) is None
    assert next_step(replace(done, containers=()), ground) is None
    assert next_step(replace(done, memory=replace(memory, discard="")), ground) is None


def keeper_of(engine: FakeEngine, tmp_path: Path) -> Keeper:
    executor = Executor(
        engine, Images(engine, lambda: None, lambda: 100.0), lambda: Place("n1", "", PurePosixPath(tmp_path), CPUS), lambda: ()
    )  # fmt: skip
    return Keeper("n1", engine, executor, StateFile(tmp_path / "agent.json"), AgentMetrics())


async def running(keeper: Keeper, engine: FakeEngine, pod: PodId) -> str:
    made = await engine.create(ContainerSpec(str(pod), "app", {}, limits_of(TEMPLATE, CPUS)))
    await engine.start(made)
    found = await engine.container(made)
    assert found is not None
    keeper.containers[pod], keeper.memory[pod] = (found,), Memory(address="172.20.1.5")
    return made


async def nothing() -> None:
    """There is no image to remove."""


class Stubborn(FakeEngine):
    """Cannot say what one container wrote: refuses, or goes on counting for ever."""

    silent_of = ""
    refuses: Exception | None = None
    counting = 0
    """Questions under way."""

    async def layer_bytes(self, container: str) -> int | None:
        size = await super().layer_bytes(container)
        if container != self.silent_of:
            return size
        if self.refuses is not None:
            raise self.refuses
        self.counting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.counting -= 1
        raise AssertionError


@pytest.mark.parametrize(
    "refuses",
    [
        EngineRefused("what it wrote cannot be counted", why="no such layer"),
        EngineUnavailable("what it wrote cannot be counted", why="the Engine hung up on that question"),
        None,
    ],
)
async def test_one_that_cannot_be_measured_hides_no_other_and_is_asked_again(
    tmp_path: Path, refuses: Exception | None
) -> None:
    engine = Stubborn(images={"app": Image("1", (), 1)})
    keeper = keeper_of(engine, tmp_path)
    engine.refuses, engine.silent_of = refuses, await running(keeper, engine, POD)
    made = await running(keeper, engine, OTHER)
    engine.layers.update({engine.silent_of: 12 * GIB, made: 12 * GIB})
    now = 0.0
    pressure = Pressure(
        engine, keeper, share_percent=10.0, high_percent=85.0, look=lambda: Disk(100 * GIB, 42 * GIB),
        clear_images=nothing, clock=lambda: now, patience_seconds=0.05,
    )  # fmt: skip
    for _ in range(3):
        await pressure.one_pass(known=True)
    assert keeper.memory[OTHER].discard == made and not keeper.memory[POD].discard
    assert engine.counting == 0 and engine.calls["layer_bytes"] == 4, "twice: nothing grew"
    silent_of, engine.silent_of = engine.silent_of, ""
    now += MEASURE_SECONDS
    await pressure.one_pass(known=True)
    assert keeper.memory[POD].discard == silent_of, "nobody knew how much it had written"


@pytest.mark.parametrize(("left_percent", "goes"), [(80, False), (88, True)])
async def test_images_that_nobody_needs_go_before_what_pods_wrote(
    tmp_path: Path, left_percent: int, *, goes: bool
) -> None:
    engine = FakeEngine(images={"app": Image("1", (), 1)})
    keeper = keeper_of(engine, tmp_path)
    made = await running(keeper, engine, OTHER)
    used, engine.layers[made], cleared = 20 * GIB, 5 * GIB, 0

    async def clear() -> None:
        nonlocal used, cleared
        used, cleared = left_percent * GIB, cleared + 1

    pressure = Pressure(
        engine, keeper, share_percent=10.0, high_percent=85.0, look=lambda: Disk(100 * GIB, used),
        clear_images=clear, clock=lambda: 0.0,
    )  # fmt: skip
    await pressure.one_pass(known=True)
    assert cleared == 0, "there is room"
    used = 88 * GIB
    await pressure.one_pass(known=True)
    assert cleared == 1 and (keeper.memory[OTHER].discard == made) == goes


async def test_what_does_not_go_is_not_measured_every_second(tmp_path: Path) -> None:
    """Its end may be waited for: a back-off, an Engine that cannot remove it."""
    engine = FakeEngine(images={"app": Image("1", (), 1)})
    keeper = keeper_of(engine, tmp_path)
    made = await running(keeper, engine, OTHER)
    engine.layers[made] = 12 * GIB
    pressure = Pressure(
        engine, keeper, share_percent=10.0, high_percent=85.0, look=lambda: Disk(100 * GIB, 32 * GIB),
        clear_images=nothing, clock=lambda: 0.0,
    )  # fmt: skip
    for _ in range(5):
        await pressure.one_pass(known=True)
    assert keeper.memory[OTHER].discard == made and engine.calls["layer_bytes"] == 2


async def test_pods_are_measured_when_the_disk_filled_and_not_before(tmp_path: Path) -> None:
    engine = FakeEngine(images={"app": Image("1", (), 1)})
    keeper = keeper_of(engine, tmp_path)
    made = await running(keeper, engine, OTHER)
    now, used = 0.0, 20 * GIB
    pressure = Pressure(
        engine, keeper, share_percent=10.0, high_percent=85.0,
        look=lambda: Disk(100 * GIB, used), clear_images=nothing, clock=lambda: now,
    )  # fmt: skip
    await pressure.one_pass(known=False)
    assert "layer_bytes" not in engine.calls, "before every container is known"
    for _ in range(3):
        await pressure.one_pass(known=True)
    assert engine.calls["layer_bytes"] == 1
    used, engine.layers[made] = 20 * GIB + GIB // 2, GIB // 2
    await pressure.one_pass(known=True)
    assert engine.calls["layer_bytes"] == 1, "half a percent is no news"
    used, engine.layers[made] = 32 * GIB, 12 * GIB
    await pressure.one_pass(known=True)
    assert engine.calls["layer_bytes"] == 2
    assert keeper.memory[OTHER].discard == made and "12 %" in keeper.health[OTHER].restart_because
    used, engine.layers[made] = 86 * GIB, 0
    for seconds in (10.0, 10.0, 55.0):
        now += seconds
        await pressure.one_pass(known=True)
    assert engine.calls["layer_bytes"] == 4, "it grew; and then once a minute while the disk is above its mark"


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan")])
def test_a_share_that_ends_every_pod_is_refused(share: float) -> None:
    """Who means to put the limit out of force may try that."""
    settings = Settings(("127.0.0.1:2379",), "n1", listen="127.0.0.1")
    settings.check()
    with pytest.raises(InvalidSettings, match="POD_DISK_PERCENT") as refused:
        replace(settings, pod_disk_percent=share).check()
    assert "100" in refused.value.next
