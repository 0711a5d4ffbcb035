"""The rollout by example: each rule of design section 5 on a small world that is watched at every write (``simulation.py``)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lain_deployd.controller.actions import PutAssignment
from lain_shared import keys
from lain_shared.model.node import Switch
from lain_shared.model.pod import ProcType, Strategy, Volume
from lain_shared.model.status import ProcPhase
from tests.unit.deployd.simulation import MIB, Broken, World, deployed, desired, template


def test_a_settled_world_is_left_alone() -> None:
    world = deployed()
    assert world.one_pass() == 0
    world.decider.replan_all()
    assert world.one_pass() == 0


def test_a_new_leader_changes_nothing_in_a_settled_world() -> None:
    world = deployed()
    assert world.one_pass(cut_after=0) == 0
    assert world.one_pass() == 0


def test_instances_are_replaced_one_after_the_other() -> None:
    world = deployed(instances=3)
    world.want(desired(release=2, instances=3, template=template("good2")))
    most = 0
    while world.one_pass() + world.agents() + world.step_routers():
        most = max(most, sum(order.run for _, order in world.pods()))
        world.now += 0.05
    world.settle()
    assert most == 4
    assert [image for _, _, image in world.running()] == ["good2"] * 3
    assert world.status().updated == 3


def test_a_bad_release_never_takes_the_good_one_away() -> None:
    world = deployed(instances=3)
    before = world.endpoints().ready
    world.want(desired(release=2, instances=3, template=template("bad")))
    world.settle()
    assert world.endpoints().ready == before
    assert [image for _, _, image in world.running()] == ["bad", "good", "good", "good"]
    assert world.status().phase is ProcPhase.ROLLING


def test_rolling_back_recreates_nothing() -> None:
    world = deployed(instances=2)
    before = world.endpoints().ready
    world.routers["r1"].stuck = True
    world.want(desired(release=2, template=template("good2")))
    for _ in range(20):
        world.one_pass(), world.agents(), world.step_routers()
        world.now += 0.05
    assert [e.instance for e in world.endpoints().draining] == [1], "instance 1 drains, and waits for the router"
    world.want(desired(release=3))
    world.revive_router("r1")
    world.settle()
    assert world.endpoints().ready == before
    assert world.status().phase is ProcPhase.STABLE


def test_workers_need_no_router() -> None:
    world = World()
    worker = desired(proc="worker", type=ProcType.WORKER, template=template(port=None), routes=())
    world.want(worker)
    world.settle()
    world.routers["r1"].stuck = True
    world.want(replace(worker, release=2, template=template("good2", port=None)))
    world.settle()
    assert world.status("hello", "worker").phase is ProcPhase.STABLE
    assert world.get(keys.ENDPOINTS, "hello", "worker") is None


def test_scaling_down_removes_the_highest_numbers() -> None:
    world = deployed(instances=4)
    first = world.endpoints().ready[0]
    world.want(desired(instances=1))
    world.settle()
    assert world.endpoints().ready == (first,)
    assert [instance for instance, _, _ in world.running()] == [1]


def test_scaling_up_touches_nothing_that_runs() -> None:
    world = deployed(instances=1)
    before = world.endpoints().ready[0]
    world.want(desired(instances=3))
    world.settle()
    assert before in world.endpoints().ready and len(world.endpoints().ready) == 3


def test_a_stopped_instance_keeps_its_number_and_stays_stopped() -> None:
    world = deployed(instances=3)
    world.want(desired(instances=3, stopped=(2,)))
    world.settle()
    assert [instance for instance, _, _ in world.running()] == [1, 3]
    assert world.status().wanted == 2 and world.status().phase is ProcPhase.STABLE
    world.want(desired(instances=3))
    world.settle()
    assert [instance for instance, _, _ in world.running()] == [1, 2, 3]


def test_a_restart_replaces_just_that_instance() -> None:
    world = deployed(instances=2)
    first, second = world.endpoints().ready
    world.want(desired(instances=2, restarts={2: 1}))
    world.settle()
    assert first in world.endpoints().ready and second not in world.endpoints().ready
    assert world.status().updated == 2


def test_only_the_number_of_the_release_differs_and_nothing_restarts() -> None:
    world = deployed()
    lives = dict(world.lives)
    world.want(desired(release=7))
    world.settle()
    assert world.lives == lives
    assert {order.release for _, order in world.pods()} == {7}


def test_limits_are_changed_in_place_where_there_is_room() -> None:
    world = deployed()
    lives = dict(world.lives)
    world.want(desired(release=2, template=template(memory_bytes=64 * MIB, cpu=2)))
    world.settle()
    assert world.lives == lives
    assert world.status().phase is ProcPhase.STABLE
    assert {seen.memory_bytes for _, seen, _ in world.all(keys.OBSERVED)} == {64 * MIB}


def test_memory_in_use_is_not_taken_and_the_status_says_how_much_it_is() -> None:
    """What its agent said of those limits is not said of the ones that are asked for next."""
    world = deployed(instances=1)
    (pod,) = world.lives
    world.in_use[pod] = 24 * MIB
    world.want(desired(instances=1, template=template(memory_bytes=16 * MIB)))
    world.settle()
    (line,) = world.status().instances
    assert world.status().phase is ProcPhase.ROLLING and f"{24 * MIB} bytes are in use" in world.status().message
    assert line.ready and line.evidence is not None and line.evidence.reason == "limits_refused"
    world.want(desired(instances=1))
    world.one_pass()
    (line,) = world.status().instances
    assert (line.error, line.evidence) == ("", None), "not yet answered"
    world.settle()
    assert world.status().phase is ProcPhase.STABLE and world.lives == {pod: 1}


def test_limits_that_do_not_fit_in_place_move_the_pod() -> None:
    world = World(1, memory_bytes=100 * MIB)
    world.want(desired(instances=1, template=template(memory_bytes=64 * MIB)))
    world.settle()
    world.add_node("n2", 512 * MIB)
    world.want(desired(instances=1, release=2, template=template(memory_bytes=128 * MIB)))
    world.settle()
    assert world.running() == [(1, "n2", "good")]


def test_pods_that_were_ready_for_too_short_a_time_take_nobodys_place() -> None:
    world = deployed(instances=1)
    world.want(desired(instances=1, release=2, min_ready_seconds=20.0, template=template("good2")))
    began = world.now
    while world.status().release != 2 or world.status().phase is not ProcPhase.STABLE:
        world.one_pass(), world.agents(), world.step_routers()
        world.now += 0.5
        if world.now < began + 20:
            assert [e.generation for e in world.endpoints().ready] == [world.used(1)[0]]
    assert world.now - began >= 20


def test_a_release_that_changes_the_port_is_served_from_both_ports_meanwhile() -> None:
    world = deployed(instances=2)
    world.want(desired(release=2, instances=2, template=template("good2", port=9000)))
    mixed = False
    while world.one_pass() + world.agents() + world.step_routers():
        endpoints = world.endpoints()
        ports = {e.port or endpoints.port for e in endpoints.ready}
        mixed |= ports == {8000, 9000}
        world.now += 0.05
    world.settle()
    assert mixed
    assert world.endpoints().port == 9000 and {e.port for e in world.endpoints().ready} == {0}


def test_recreate_has_no_two_pods_of_an_instance() -> None:
    world = deployed(instances=3, strategy=Strategy.RECREATE)
    world.want(desired(release=2, instances=3, strategy=Strategy.RECREATE, template=template("good2")))
    least = 3
    for _ in range(300):
        world.one_pass(), world.agents(), world.step_routers()
        world.now += 0.05
        least = min(least, len(world.endpoints().ready))
    assert least == 2, "one instance at a time"
    assert [image for _, _, image in world.running()] == ["good2"] * 3


def test_recreate_stops_nothing_for_a_pod_that_would_not_fit() -> None:
    world = World(1, memory_bytes=100 * MIB)
    world.want(desired(instances=1, strategy=Strategy.RECREATE))
    world.settle()
    world.want(
        desired(instances=1, release=2, strategy=Strategy.RECREATE, template=template("good2", memory_bytes=200 * MIB))
    )
    world.settle()
    assert world.running() == [(1, "n1", "good")]
    assert world.status().phase is ProcPhase.WAITING
    assert world.status().reasons == {"memory": 1}


def test_a_proc_that_recreates_and_crashes_can_be_mended() -> None:
    world = World(1)
    world.want(desired(strategy=Strategy.RECREATE, template=template("crash")))
    for _ in range(10):
        world.one_pass(), world.agents(), world.step_routers()
    world.want(desired(release=2, strategy=Strategy.RECREATE))
    world.settle()
    assert [image for _, _, image in world.running()] == ["good", "good"]


def test_undeploying_drains_and_leaves_nothing() -> None:
    world = deployed(instances=3)
    world.unwant("hello", "web")
    world.one_pass()
    assert world.endpoints().ready == () and len(world.endpoints().draining) == 3
    world.settle()
    for family in (keys.ASSIGN, keys.OBSERVED, keys.ENDPOINTS, keys.STATUS):
        assert list(world.all(family)) == []


def test_a_pod_without_a_node_says_why() -> None:
    world = World(2)
    world.want(desired(instances=1, filters=("constraint:disk==ssd",)))
    world.settle()
    assert world.status().phase is ProcPhase.WAITING
    assert world.status().reasons == {"constraint:disk==ssd": 2}
    world.add_node("n3", disk="ssd")
    world.settle()
    assert world.running() == [(1, "n3", "good")]


def test_freed_room_is_used_without_being_asked() -> None:
    world = World(1, memory_bytes=64 * MIB)
    world.want(desired("big", instances=1, template=template(memory_bytes=48 * MIB)))
    world.settle()
    world.want(desired(instances=1))
    world.settle()
    assert world.status().reasons == {"memory": 1}
    assert "needs 32 MiB" in world.status().message and "16 MiB" in world.status().message
    world.unwant("big", "web")
    world.settle()
    assert world.status().phase is ProcPhase.STABLE


@pytest.mark.parametrize("filters", [("constraint:",), ("constraint:a==/(x+)+/",)])
def test_a_filter_that_is_none_is_said_and_harms_nobody(filters: tuple[str, ...]) -> None:
    world = World()
    world.want(desired(filters=filters))
    world.want(desired("other"))
    world.settle()
    assert "is not a placement filter" in world.status().message
    assert world.status("other").phase is ProcPhase.STABLE


def test_a_crash_takes_only_itself_out_of_the_endpoints() -> None:
    world = deployed(instances=2)
    address = world.endpoints().ready[0].address
    world.crashing.add(str(world.pods()[0][1].pod))
    world.agents(), world.one_pass()
    assert [e.address for e in world.endpoints().draining] == [address]
    assert world.status().phase is ProcPhase.FAILING
    world.settle()
    assert len(world.endpoints().ready) == 2 and world.status().phase is ProcPhase.STABLE


def test_exits_before_the_first_readiness_are_counted() -> None:
    world = deployed(instances=1)
    world.want(desired(release=2, instances=1, template=template("crash")))
    for _ in range(12):
        world.one_pass(), world.agents(), world.step_routers()
    assert world.status().crashes_before_ready >= 3
    assert world.status().phase is ProcPhase.FAILING
    assert world.endpoints().ready


def test_exits_after_readiness_are_no_crashes_before_it_for_any_leader() -> None:
    world = deployed(instances=1)
    for _ in range(3):
        world.crashing.add(str(world.pods()[0][1].pod))
        world.agents()
        world.one_pass(cut_after=100)
        world.settle()
    assert world.status().crashes_before_ready == 0


def test_progress_is_what_gets_better_and_outlives_a_leader() -> None:
    world = deployed(instances=1)
    world.want(desired(release=2, instances=1, template=template("crash")))
    for _ in range(6):
        world.one_pass(), world.agents()
    before = world.status().progress_at
    for _ in range(10):
        world.now += 10
        world.one_pass(cut_after=100), world.agents()
    assert world.status().progress_at == before, "crashing again and again is no progress"


# --- what others did --------------------------------------------------------------------------------------------------


def test_an_assignment_deleted_by_hand_is_written_again_and_nothing_restarts() -> None:
    world = deployed()
    lives, (node, order) = dict(world.lives), world.pods()[0]
    world.delete(keys.ASSIGN.key(node, str(order.pod)))
    world.settle()
    assert world.lives == lives
    assert world.get(keys.ASSIGN, node, str(order.pod)) == order


def test_keys_nobody_knows_are_left_alone() -> None:
    world = deployed()
    world.put(keys.ASSIGN.key("n1", "not-a-pod"), world.pods()[0][1])
    world.decider.replan_all()
    assert world.one_pass() == 0


def test_maintenance_moves_nothing() -> None:
    world = deployed()
    world.put(keys.SWITCHES.key("maintenance"), Switch("maintenance", on=True))
    world.want(desired(release=2, instances=5, template=template("good2")))
    world.settle()
    assert [image for _, _, image in world.running()] == ["good", "good"]
    world.put(keys.SWITCHES.key("maintenance"), Switch("maintenance", on=False))
    world.settle()
    assert [image for _, _, image in world.running()] == ["good2"] * 5


def test_the_judge_sees_a_stop_without_acknowledgement() -> None:
    """The simulation itself: it would notice."""
    world = deployed()
    (node, _pod), order, revision = next(world.all(keys.ASSIGN))
    with pytest.raises(Broken, match="while router r1 sends it requests"):
        world.apply(PutAssignment(node, replace(order, run=False), revision, "test"))


def test_volumes_bind_an_instance_to_its_node() -> None:
    world = World(3)
    with_volume = template(volumes=(Volume("/data"),))
    world.want(desired(instances=2, strategy=Strategy.RECREATE, template=with_volume))
    world.settle()
    homes = {instance: node for instance, node, _ in world.running()}
    world.want(
        desired(instances=2, release=2, strategy=Strategy.RECREATE, template=replace(with_volume, image="good2"))
    )
    world.settle()
    assert {instance: node for instance, node, _ in world.running()} == homes
    world.want(
        desired(instances=0, release=2, strategy=Strategy.RECREATE, template=replace(with_volume, image="good2"))
    )
    world.settle()
    for instance, node in homes.items():
        state = world.get(keys.NODES_STATE, node)
        world.put(keys.NODES_STATE.key(node), replace(state, volumes=(*state.volumes, f"hello.web-{instance}")))
    world.want(
        desired(instances=2, release=2, strategy=Strategy.RECREATE, template=replace(with_volume, image="good2"))
    )
    world.settle()
    assert {instance: node for instance, node, _ in world.running()} == homes


def test_a_node_whose_clock_is_ahead_holds_up_no_rollout() -> None:
    """Its pods are ready since a time that is an hour away: how long they have been is counted from when the leader saw it."""
    world = deployed()
    world.want(desired(release=2, template=template("good2"), min_ready_seconds=5.0))
    began = world.now
    for _ in range(200):
        world.one_pass(), world.agents(), world.step_routers()
        for (node, pod), seen, _ in list(world.all(keys.OBSERVED)):
            if seen.ready_at is not None and began <= seen.ready_at < began + 1_000:
                world.put(keys.OBSERVED.key(node, pod), replace(seen, ready_at=seen.ready_at + 3_600))
        world.now += 0.25
        if world.status().phase is ProcPhase.STABLE and world.status().release == 2:
            break
    assert 10 < world.now - began < 40, "each for five seconds, one after the other"
