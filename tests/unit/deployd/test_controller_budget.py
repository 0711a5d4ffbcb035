"""Where a rollout's time goes: one step at a time, without a gap, whoever leads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lain_shared import keys
from lain_shared.model.pod import PodState, ProcType, Strategy
from lain_shared.model.status import DeployStep, ProcPhase
from tests.unit.deployd.simulation import World, deployed, desired, template

TICK = 0.25


def roll(world: World, *, new_leaders: bool = False) -> tuple[dict[str, float], float]:
    """Roll out what is wanted, every tick one move of everybody; returns the seconds of the steps, and all that passed since they count."""
    world.one_pass()
    began = world.status().step_at
    for _ in range(400):
        world.agents(), world.step_routers()
        world.now += TICK
        world.one_pass(cut_after=1000 if new_leaders else None)
        if world.status().phase in (ProcPhase.STABLE, ProcPhase.DONE):
            break
    assert world.status().step is None
    return dict(world.status().step_seconds), world.now - began


@pytest.mark.parametrize("new_leaders", [False, True])
@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_steps_add_up_to_the_whole(strategy: Strategy, instances: int, new_leaders: bool) -> None:
    more: dict[str, Any] = {"strategy": strategy, "instances": instances}
    world = deployed(**more)
    world.want(desired(release=2, template=template("good2"), **more))
    steps, whole = roll(world, new_leaders=new_leaders)
    assert sum(steps.values()) == pytest.approx(whole, abs=0.001)
    assert {"start", "ready"} <= steps.keys()
    assert ("stop" in steps) == (strategy is Strategy.RECREATE)
    assert "pull" not in steps and "plan" not in steps


def test_what_is_settled_counts_no_further() -> None:
    world = deployed(instances=1)
    before = world.status()
    world.now += 1000
    world.decider.replan_all()
    assert world.one_pass() == 0
    assert world.status() == before


def test_an_image_that_is_brought_counts_as_pull() -> None:
    world = World()
    world.want(desired(instances=1))
    world.one_pass()
    [(node, order)] = world.pods()
    world.agents()
    key = keys.OBSERVED.key(node, str(order.pod))
    seen = world.get(keys.OBSERVED, node, str(order.pod))
    world.put(key, replace(seen, state=PodState.PULLING))
    world.one_pass()
    assert world.status().step is DeployStep.PULL
    world.now += 7
    world.put(key, replace(seen, state=PodState.PENDING))
    steps, _ = roll(world)
    assert steps["pull"] == pytest.approx(7, abs=2 * TICK)


def test_a_busy_old_pod_counts_as_drain() -> None:
    world = deployed(instances=2, drain_seconds=6.0)
    for endpoint in world.endpoints().ready:
        world.routers["r1"].busy.add(endpoint.address)
    world._report("r1")
    world.want(desired(instances=2, drain_seconds=6.0, release=2, template=template("good2")))
    steps, whole = roll(world)
    assert steps["drain"] == pytest.approx(6, abs=2 * TICK), (
        "only the first is waited for: the last drains when all serves"
    )
    assert sum(steps.values()) == pytest.approx(whole, abs=0.001)


def test_a_router_that_is_slow_counts_as_route() -> None:
    world = deployed(instances=1)
    world.routers["r1"].stuck = True
    world.want(desired(instances=1, release=2, template=template("good2")))
    for _ in range(20):
        world.one_pass(), world.agents(), world.step_routers()
        world.now += TICK
    assert world.status().step is DeployStep.ROUTE
    world.routers["r1"].stuck = False
    steps, _ = roll(world)
    assert steps["route"] >= 3


def test_no_room_counts_as_plan() -> None:
    world = World(memory_bytes=16 * 1024 * 1024)
    world.want(desired(instances=1))
    world.one_pass()
    assert world.status().step is DeployStep.PLAN


def test_a_oneshot_that_runs_counts_as_oneshot() -> None:
    world = World()
    more: dict[str, Any] = {"type": ProcType.ONESHOT, "instances": 1, "routes": (), "template": template(port=None)}
    world.want(desired(**more))
    steps, whole = roll(world)
    assert steps["oneshot"] > 0
    assert sum(steps.values()) == pytest.approx(whole, abs=0.001)
