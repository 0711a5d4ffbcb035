"""Oneshots: once an instance and release, whatever is deleted, restarted or lost meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lain_shared import keys
from lain_shared.model.pod import ProcType
from lain_shared.model.status import ProcPhase
from tests.unit.deployd.simulation import MIB, World, desired, template


def oneshot(release: int = 1, image: str = "good", **more: Any) -> World:
    world = World()
    world.want(desired(proc="migrate", type=ProcType.ONESHOT, release=release, instances=1, routes=(),
                       template=template(image, port=None), **more))  # fmt: skip
    return world


def test_a_oneshot_runs_once_a_release() -> None:
    world = oneshot()
    world.settle()
    assert world.status(proc="migrate").phase is ProcPhase.DONE
    world.want(replace(world.wanted("hello", "migrate"), restarts={1: 3}))
    world.settle()
    assert len(world.oneshots_run) == 1
    world.want(replace(world.wanted("hello", "migrate"), release=2))
    world.settle()
    assert [release for *_, release in world.oneshots_run] == [1, 2]
    assert len(world.pods(proc="migrate")) == 1


def test_a_oneshot_that_fails_is_not_run_again() -> None:
    world = oneshot(image="bad")
    world.settle()
    assert world.status(proc="migrate").phase is ProcPhase.FAILED
    assert len(world.oneshots_run) == 1


def test_a_oneshot_whose_assignment_was_deleted_is_not_run_again() -> None:
    world = oneshot()
    world.settle()
    ((node, order),) = world.pods(proc="migrate")
    world.delete(keys.ASSIGN.key(node, str(order.pod)))
    world.agents()
    world.settle()
    assert len(world.oneshots_run) == 1
    assert world.status(proc="migrate").phase is ProcPhase.DONE


def test_a_oneshot_that_was_taken_away_while_it_ran_failed() -> None:
    world = oneshot()
    for _ in range(3):
        world.one_pass(), world.agents()
    ((node, order),) = world.pods(proc="migrate")
    world.delete(keys.ASSIGN.key(node, str(order.pod)))
    world.agents()
    world.settle()
    assert len(world.oneshots_run) == 1
    assert world.status(proc="migrate").phase is ProcPhase.FAILED


def test_an_ended_oneshot_takes_no_room() -> None:
    world = World(1, memory_bytes=40 * MIB)
    world.want(desired(proc="migrate", type=ProcType.ONESHOT, instances=1, routes=(), template=template(port=None)))
    world.settle()
    world.want(desired(instances=1))
    world.settle()
    assert world.status().phase is ProcPhase.STABLE
