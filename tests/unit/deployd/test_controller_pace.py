"""What nobody waits for is written together: of many pods, not each makes every router change its table."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from lain_deployd.controller.decide import Decider
from lain_deployd.controller.pace import GATHER_SECONDS
from lain_shared import keys
from lain_shared.model.pod import Observed, PodState
from lain_shared.model.status import ProcPhase
from tests.unit.deployd.simulation import MIB, World, desired, template

STEP_SECONDS = 0.01


def starting(instances: int) -> World:
    """All run, none is ready: ``slow`` pods are ready when a test says so."""
    world = World()
    world.want(desired(instances=instances, template=template("slow")))
    for _ in range(10):
        world.one_pass(), world.agents()
    world.now += 2 * GATHER_SECONDS
    world.one_pass()
    assert [seen.state for _, seen, _ in world.all(keys.OBSERVED)] == [PodState.RUNNING] * instances
    return world


def make_ready(world: World, instance: int) -> None:
    """Its agent says that it is ready."""
    for (node, pod), seen, _ in list(world.all(keys.OBSERVED)):
        if seen.instance == instance:
            world.put(keys.OBSERVED.key(node, pod), replace(seen, ready=True, ready_at=world.now))


def routed(world: World) -> list[int]:
    found = world.get(keys.ENDPOINTS, "hello", "web")
    return [] if found is None else [endpoint.instance for endpoint in found.ready]


def test_the_first_is_routed_at_once_and_so_is_the_last() -> None:
    world = starting(3)
    make_ready(world, 2)
    world.one_pass()
    assert routed(world) == [2]
    world.now += STEP_SECONDS
    make_ready(world, 1)
    assert world.one_pass() == 0, "another serves, and a third is still to come"
    make_ready(world, 3)
    world.one_pass()
    assert routed(world) == [1, 2, 3]


def test_what_waits_is_written_when_its_time_has_come_though_nothing_else_happens() -> None:
    world = starting(3)
    make_ready(world, 1)
    world.one_pass()
    began = world.now
    world.now += STEP_SECONDS
    make_ready(world, 2)
    assert world.one_pass() == 0
    assert world.wake_at == began + GATHER_SECONDS
    world.now = world.wake_at
    world.one_pass()
    assert routed(world) == [1, 2]


def test_thirty_that_are_ready_one_after_the_other_are_few_writes() -> None:
    world = starting(30)
    before, began = world.writes, world.now
    for instance in range(1, 31):
        make_ready(world, instance)
        world.one_pass(), world.step_routers()
        world.now += 5 * STEP_SECONDS
    world.one_pass()
    assert world.status().phase is ProcPhase.STABLE
    assert world.writes - before <= 2 * (2 + (world.now - began) / GATHER_SECONDS) + 2


def test_what_got_worse_is_told_at_once() -> None:
    world = starting(3)
    for instance in (1, 2):
        make_ready(world, instance)
    world.one_pass()
    world.now += STEP_SECONDS
    ((node, pod), seen, _) = next(iter(world.all(keys.OBSERVED)))
    world.put(keys.OBSERVED.key(node, pod), replace(seen, ready=False, ready_at=None))
    world.one_pass()
    assert routed(world) == [2]


def test_a_pod_that_another_waits_for_is_routed_at_once() -> None:
    world = World()
    world.want(desired(instances=2))
    world.settle()
    world.want(desired(instances=2, release=2, template=template("good2")))
    at: list[float] = []
    while world.status().phase is not ProcPhase.STABLE or world.status().release != 2:
        world.one_pass(), world.agents(), world.step_routers()
        world.now += STEP_SECONDS
        at.append(world.now)
    assert len(at) * STEP_SECONDS < GATHER_SECONDS, "two pods, one after the other, in steps of a hundredth of a second"


def test_a_new_leader_writes_what_its_predecessor_held_back() -> None:
    world = starting(3)
    make_ready(world, 1)
    world.one_pass()
    make_ready(world, 2)
    assert world.one_pass() == 0
    world.one_pass(cut_after=0)
    world.one_pass()
    assert routed(world) == [1, 2]


def test_what_waited_and_is_refused_again_and_again_is_tried_less_and_less_often() -> None:
    world = starting(3)
    make_ready(world, 1)
    world.one_pass()
    world.now += STEP_SECONDS
    make_ready(world, 2)
    assert world.one_pass() == 0
    world.now = world.wake_at or 0.0
    pauses: list[float] = []
    for _ in range(5):
        assert world.decider.decide(world.snapshots(), world.now).writes, (
            "nothing was written: it has waited long enough"
        )
        pauses.append(world.decider.hold("hello", world.now))
        world.now += pauses[-1]
    assert pauses == sorted(set(pauses))


def test_many_that_are_gone_one_after_the_other_are_few_writes() -> None:
    world = World()
    world.want(desired(instances=20))
    world.settle()
    world.unwant("hello", "web")
    while any(order.run for _, order in world.pods()):
        world.one_pass(), world.step_routers()
    before, began = world.writes, world.now
    for node, order in world.pods():
        world.delete(keys.OBSERVED.key(node, str(order.pod)))
        world.one_pass(), world.step_routers()
        world.now += 5 * STEP_SECONDS
    world.one_pass()
    assert world.pods() == [] and world.get(keys.STATUS, "hello", "web") is None
    passes = 2 + (world.now - began) / GATHER_SECONDS
    assert world.writes - before - 20 <= 2 * passes + 2, (
        "each pod's order is taken away; the rest is told in few passes"
    )


def test_room_that_another_app_waits_for_is_given_back_at_once() -> None:
    world = World(memory_bytes=3 * 32 * MIB)
    world.want(desired(instances=3))
    world.settle()
    world.want(desired("other", instances=1))
    world.one_pass()
    assert not world.pods("other"), "the node is full"
    world.unwant("hello", "web")
    while any(order.run for _, order in world.pods()):
        world.one_pass(), world.step_routers()
    world.now += STEP_SECONDS
    forget(world, 2)
    world.one_pass(), world.one_pass()
    assert instances(world) == [1, 3] and world.pods("other")


def told_before_they_were_made(*, seen: bool) -> World:
    """Three pods were ordered, and two of them told to stop before anything was made of them. ``seen``: their nodes have spoken of them."""
    world = World()
    world.want(desired(instances=3, template=template("slow")))
    world.one_pass()
    if seen:
        world.agents()
        world.one_pass()
    world.now += 2 * GATHER_SECONDS
    world.want(desired(instances=1, template=template("slow")))
    world.one_pass()
    assert [order.run for _, order in world.pods()] == [True, False, False]
    return world


def forget(world: World, instance: int) -> None:
    """Its node has nothing of it any more."""
    for (node, pod), seen, _ in list(world.all(keys.OBSERVED)):
        if seen.instance == instance:
            world.delete(keys.OBSERVED.key(node, pod))


def instances(world: World) -> list[int]:
    return [order.instance for _, order in world.pods()]


def test_a_pod_whose_end_waits_is_remembered_to_have_been_there() -> None:
    world = told_before_they_were_made(seen=True)
    world.now += STEP_SECONDS
    forget(world, 2)
    assert world.one_pass() == 0, "another one is still to go"
    world.now = world.wake_at or 0.0
    world.one_pass()
    assert instances(world) == [1, 3]


def test_a_pod_that_never_was_and_whose_end_waits_is_not_waited_for_anew() -> None:
    world = told_before_they_were_made(seen=False)
    world.one_pass()
    world.now += world.decider.limits.unseen_seconds - STEP_SECONDS
    for (node, pod), order, revision in list(world.all(keys.ASSIGN)):
        if order.instance == 1:
            world.put(
                keys.OBSERVED.key(node, pod),
                Observed("hello", "web", 1, order.generation, PodState.PULLING, revision),
            )
    assert world.one_pass() == 1, "something is told just before the wait is over"
    for seconds in (2 * STEP_SECONDS, GATHER_SECONDS):
        world.now += seconds
        world.one_pass()
    assert instances(world) == [1]


happenings = st.sampled_from(("ready", "not ready", "forget", "scale", "another release", "agents", "routers"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(happenings, st.integers(0, 5), st.sampled_from((0.01, 0.1, 0.3))), max_size=30))
def test_nothing_waits_longer_than_it_may(events: list[tuple[str, int, float]]) -> None:
    """A new leader holds nothing back: what it would write, the present one has written within the time."""
    world = starting(4)
    waits_since: float | None = None
    for name, number, seconds in events:
        happen(world, name, number)
        until = world.now + seconds
        while world.now < until:
            world.now = min(until, world.wake_at or until) if (world.wake_at or until) > world.now else until
            while world.one_pass():
                waits_since = None
            if not Decider().decide(world.snapshots(), world.now).writes:
                waits_since = None
            elif waits_since is None:
                waits_since = world.now
            assert waits_since is None or world.now - waits_since <= GATHER_SECONDS


def happen(world: World, name: str, number: int) -> None:
    wanted = world.wanted("hello", "web")
    match name:
        case "ready":
            make_ready(world, number)
        case "not ready":
            for (node, pod), seen, _ in list(world.all(keys.OBSERVED)):
                if seen.instance == number:
                    world.put(keys.OBSERVED.key(node, pod), replace(seen, ready=False, ready_at=None))
        case "forget":
            forget(world, number)
        case "scale":
            world.want(replace(wanted, instances=number))
        case "another release":
            world.want(replace(wanted, release=wanted.release + 1, template=template(f"slow{wanted.release}")))
        case "agents":
            world.agents()
        case _:
            world.step_routers()
