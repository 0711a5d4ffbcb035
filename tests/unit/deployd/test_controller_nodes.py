"""Nodes that go and come back: what is added, what is left alone, who survives (design section 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lain_deployd.controller import views
from lain_deployd.controller.decide import Decider
from lain_deployd.controller.presence import NodeMemory, breaker, look
from lain_deployd.controller.view import Limits
from lain_shared import keys
from lain_shared.model.node import Drain, Node, Switch
from lain_shared.model.pod import ProcType, Strategy, Volume
from lain_shared.model.status import ProcPhase
from tests.unit.deployd.simulation import MIB, World, desired, template


def spread(nodes: int = 3, **more: Any) -> World:
    """A world with one instance on each of the first two nodes it was given to."""
    world = World(nodes)
    world.want(desired(**more))
    world.settle()
    return world


def home(world: World, instance: int = 1) -> str:
    return next(node for number, node, _ in world.running() if number == instance)


def test_instances_are_spread() -> None:
    world = spread(nodes=3, instances=3)
    assert len({node for _, node, _ in world.running()}) == 3


def test_a_lost_node_gets_a_replacement_and_loses_nothing() -> None:
    world = spread()
    lost, first = home(world), world.endpoints().ready[0]
    world.kill_node(lost)
    world.one_pass()
    assert world.endpoints().suspect == (first,), "used after all others until the replacement is ready"
    world.settle()
    endpoints = world.endpoints()
    assert len(endpoints.ready) == 2 and endpoints.draining == (first,)
    kept = [order for node, order in world.pods() if node == lost]
    assert len(kept) == 1 and kept[0].run and not kept[0].draining, "its assignment stays: it may survive"
    assert world.status().phase is ProcPhase.STABLE


def test_after_a_heal_the_replacement_survives_if_it_is_ready() -> None:
    world = spread()
    lost, old = home(world), world.endpoints().ready[0]
    world.kill_node(lost)
    world.settle()
    replacement = world.endpoints().ready[0]
    world.heal_node(lost)
    healed = world.now
    world.settle()
    assert replacement in world.endpoints().ready and old not in world.endpoints().ready
    assert len(world.running()) == 2 and world.now - healed < 5


def test_after_a_heal_a_replacement_that_is_not_ready_is_withdrawn() -> None:
    world = spread()
    lost, old = home(world), world.endpoints().ready[0]
    world.kill_node(lost)
    world.one_pass()  # the replacement is assigned, and nothing more
    healed = world.now
    world.heal_node(lost)
    for _ in range(10):
        world.one_pass()
        world.now += 0.5
    assert old in world.endpoints().ready and not world.endpoints().suspect
    assert sum(order.run for _, order in world.pods()) == 2 and world.now - healed <= 5
    world.settle()
    assert len(world.running()) == 2


def test_a_replacement_without_a_node_leaves_the_old_one_as_it_is() -> None:
    world = World(1)
    world.want(desired())
    world.settle()
    before = world.endpoints().ready
    world.kill_node("n1")
    world.settle()
    assert world.endpoints().suspect == before
    assert world.status().phase is ProcPhase.WAITING and world.status().reasons == {"away": 1}
    world.heal_node("n1")
    world.settle()
    assert world.endpoints().ready == before and world.status().phase is ProcPhase.STABLE


@pytest.mark.parametrize(
    "more",
    [{"stateful": True}, {"template": template(volumes=(Volume("/data"),))}],
    ids=["stateful", "with a volume"],
)
def test_what_has_state_is_never_moved(more: dict[str, Any]) -> None:
    world = spread(strategy=Strategy.RECREATE, **more)
    lost = home(world)
    world.kill_node(lost)
    world.settle()
    assert len(world.pods()) == 2
    assert world.status().phase is ProcPhase.WAITING and lost in world.status().message
    world.heal_node(lost)
    world.settle()
    assert world.status().phase is ProcPhase.STABLE and len(world.endpoints().ready) == 2


def test_a_recreate_proc_without_state_is_replaced() -> None:
    world = spread(strategy=Strategy.RECREATE)
    lost = home(world)
    world.kill_node(lost)
    world.settle()
    assert world.status().phase is ProcPhase.STABLE
    world.heal_node(lost)
    world.settle()
    assert len(world.running()) == 2


def test_a_oneshot_on_a_lost_node_is_not_run_elsewhere() -> None:
    world = World(2)
    world.want(desired(proc="migrate", type=ProcType.ONESHOT, instances=1, routes=(), template=template(port=None)))
    for _ in range(3):
        world.one_pass(), world.agents()
    ((node, _),) = world.pods(proc="migrate")
    world.kill_node(node)
    world.settle()
    assert len(world.pods(proc="migrate")) == 1


def test_a_third_of_the_nodes_at_once_trips_the_breaker_and_moves_nothing() -> None:
    world = World(5)
    world.want(desired(instances=5))
    world.settle()
    pods = sorted(str(order.pod) for _, order in world.pods())
    world.kill_node("n1")
    world.kill_node("n2")
    world.settle()
    assert sorted(str(order.pod) for _, order in world.pods()) == pods
    assert "vanished within 60 s" in world.status().message
    assert len(world.endpoints().suspect) == 2
    world.heal_node("n1")
    world.heal_node("n2")
    world.settle()
    assert sorted(str(order.pod) for _, order in world.pods()) == pods
    assert world.status().phase is ProcPhase.STABLE


def test_when_fewer_are_away_the_rest_is_moved() -> None:
    world = World(5)
    world.want(desired(instances=5))
    world.settle()
    world.kill_node("n1")
    world.kill_node("n2")
    world.settle()
    world.heal_node("n2")
    world.settle()
    assert world.status().phase is ProcPhase.STABLE
    assert "n1" not in {node for _, node, _ in world.running() if not world.lost(node)}


def test_an_operator_may_say_that_all_is_moved_the_same() -> None:
    world = World(5)
    world.want(desired(instances=5))
    world.settle()
    world.kill_node("n1")
    world.kill_node("n2")
    world.settle()
    world.now += 1
    world.put(keys.SWITCHES.key("breaker"), Switch("breaker", on=False, at=world.now))
    world.settle()
    assert world.status().phase is ProcPhase.STABLE and len(world.endpoints().ready) == 5


def test_nodes_lost_one_by_one_do_not_trip_it() -> None:
    world = World(5)
    world.want(desired(instances=5))
    world.settle()
    for node in ("n1", "n2"):
        world.kill_node(node)
        world.settle()
        world.now += 90
    assert world.status().phase is ProcPhase.STABLE


def test_a_sleeping_guard_replaces_nothing() -> None:
    world = spread()
    world.put(keys.SWITCHES.key("guard"), Switch("guard", on=False))
    world.kill_node(home(world))
    world.settle()
    assert len(world.pods()) == 2 and "the guard is asleep" in world.status().message


def test_after_etcd_was_away_no_node_counts_as_lost_for_a_lease() -> None:
    world = spread()
    world.kill_node(home(world))
    decision = world.decider.decide(world.snapshots(), world.now, grace_until=world.now + 5)
    assert not decision.writes and decision.wake_at == world.now + 5
    world.now += 5
    assert world.decider.decide(world.snapshots(), world.now, grace_until=world.now).writes


def test_a_drained_node_gives_its_pods_away_one_by_one() -> None:
    world = spread(nodes=2, instances=4)
    world.put(keys.DRAINS.key("n1"), Drain("n1"))
    world.settle()
    assert {node for _, node, _ in world.running()} == {"n2"}
    assert world.status().phase is ProcPhase.STABLE


def test_a_cordoned_node_keeps_its_pods_and_gets_no_new_ones() -> None:
    world = spread(nodes=2, instances=2)
    world.put(keys.NODES.key("n1"), Node("n1", "10.0.0.1", cordoned=True))
    world.want(desired(instances=6))
    world.settle()
    nodes = [node for _, node, _ in world.running()]
    assert nodes.count("n1") == 1 and nodes.count("n2") == 5


def test_a_node_that_sees_nothing_of_a_pod_is_waited_for() -> None:
    world = spread()
    ((_, pod), _, _), *_ = world.all(keys.ASSIGN)
    node = next(node for (node, each), _, _ in world.all(keys.OBSERVED) if each == pod)
    before = world.endpoints()
    world.delete(keys.OBSERVED.key(node, pod))
    world.one_pass()
    assert world.endpoints() == before and len(world.pods()) == 2


def test_undeploying_does_not_wait_for_a_lost_node() -> None:
    world = spread()
    lost = home(world)
    world.kill_node(lost)
    world.unwant("hello", "web")
    world.settle()
    assert world.get(keys.ENDPOINTS, "hello", "web") is None and world.get(keys.STATUS, "hello", "web") is None
    world.heal_node(lost)
    world.settle()
    assert not world.running() and not world.pods()


def test_a_singleton_has_one_pod() -> None:
    world = World(2)
    world.want(
        desired(proc="one", type=ProcType.WORKER, instances=1, singleton=True, routes=(), template=template(port=None))
    )
    world.settle()
    world.want(replace(world.wanted("hello", "one"), release=2, template=template("good2", port=None)))
    world.settle()
    assert [image for _, _, image in world.running(proc="one")] == ["good2"]


def test_a_singleton_on_a_lost_node_is_held() -> None:
    """Nothing silences it there yet: it may still run."""
    world = World(2)
    worker: dict[str, Any] = {"type": ProcType.WORKER, "instances": 1, "routes": (), "template": template(port=None)}
    world.want(desired(proc="one", singleton=True, **worker))
    world.settle()
    ((_, lost, _),) = world.running(proc="one")
    world.kill_node(lost)
    world.settle()
    assert len(world.pods(proc="one")) == 1
    assert world.status(proc="one").phase is ProcPhase.WAITING
    assert f"may still run on {lost}" in world.status(proc="one").message
    world.unwant("hello", "one")
    world.settle()
    world.want(desired(proc="one", singleton=True, release=2, **worker))
    world.settle()
    assert not [node for node, order in world.pods(proc="one") if order.run], "told to stop, and nobody saw it do so"
    world.heal_node(lost)
    world.settle()
    assert len(world.running(proc="one")) == 1 and world.status(proc="one").phase is ProcPhase.STABLE


def test_what_a_returned_node_said_before_is_not_believed_at_once() -> None:
    world = World(1)
    world.want(desired(instances=1))
    world.settle()
    (old,) = world.endpoints().ready
    world.kill_node("n1")
    world.settle()
    assert world.endpoints().suspect == (old,)
    world.heal_node("n1")
    world.one_pass()
    assert world.endpoints().suspect == (old,) and not world.endpoints().ready
    world.now += Limits().heal_settle_seconds
    world.one_pass()
    assert world.endpoints().ready == (old,)


# --- what nobody ever saw ---------------------------------------------------------------------------------------------


def stopped_before_it_was_seen(nodes: int, **more: Any) -> World:
    """An order that its node has not answered yet, and the next release."""
    world = World(nodes)
    world.want(desired(instances=1, strategy=Strategy.RECREATE, **more))
    world.one_pass()
    world.want(desired(instances=1, strategy=Strategy.RECREATE, release=2, template=template("good2"), **more))
    world.one_pass()
    world.one_pass()
    return world


def test_an_order_that_was_never_answered_is_not_taken_for_gone() -> None:
    world = stopped_before_it_was_seen(1)
    began = world.now
    (first,) = world.pods()
    assert not first[1].run, "its node may be about to start it"
    while len(world.pods()) == 1 and world.pods()[0][1] == first[1] and world.now < began + 60:
        world.now += 0.5
        world.one_pass()
    assert world.now - began >= Limits().unseen_seconds
    world.settle()
    assert [image for _, _, image in world.running()] == ["good2"]


def test_an_order_to_a_node_that_is_away_is_not_taken_for_gone() -> None:
    world = World(1)
    world.want(desired(instances=1, strategy=Strategy.RECREATE, stateful=True))
    world.one_pass()
    world.kill_node("n1")
    world.want(desired(instances=0, strategy=Strategy.RECREATE, stateful=True))
    for _ in range(60):
        world.one_pass()
        world.now += 1
    ((_, order),) = world.pods()
    assert not order.run
    world.heal_node("n1")
    world.settle()
    assert not world.pods()


def test_what_was_seen_and_is_seen_no_more_is_gone_at_once() -> None:
    world = World(1)
    world.want(desired(instances=1))
    world.settle()
    world.unwant("hello", "web")
    began = world.now
    world.idle()
    world.settle()
    assert not world.pods() and world.now - began < 5


# --- presence itself --------------------------------------------------------------------------------------------------


def seen(
    memory: NodeMemory, present: set[str], now: float, assigned: tuple[str, ...] = (), grace: float = 0
) -> NodeMemory:
    return look(memory, assigned=assigned, present=present, now=now, grace_until=grace, limits=Limits())


def test_a_new_leader_takes_assigned_nodes_without_presence_as_vanished_now() -> None:
    memory = seen(NodeMemory(), {"a"}, 100.0, assigned=("a", "b"))
    assert memory.vanished == {"b": 100.0}


def test_a_registered_node_that_never_came_is_not_lost() -> None:
    assert not seen(NodeMemory(), {"a"}, 100.0).lost


def test_a_node_keeps_the_time_it_vanished_at() -> None:
    memory = seen(seen(NodeMemory(), {"a", "b"}, 100.0), {"a"}, 101.0)
    assert seen(memory, {"a"}, 150.0).vanished == {"b": 101.0}
    back = seen(memory, {"a", "b"}, 151.0)
    assert not back.vanished and back.returned == {"b": 151.0}
    assert not seen(back, {"a", "b"}, 160.0).returned


@pytest.mark.parametrize(
    ("nodes", "vanished", "trips"),
    [
        (1, {"n0": 0.0}, False),
        (2, {"n0": 0.0}, False),
        (2, {"n0": 0.0, "n1": 59.0}, True),
        (6, {"n0": 0.0, "n1": 10.0}, True),
        (6, {"n0": 0.0, "n1": 61.0}, False),
        (7, {"n0": 0.0, "n1": 10.0}, False),
        (7, {"n0": 0.0, "n1": 10.0, "n2": 60.0}, True),
        (9, {"n0": 0.0, "n1": 50.0, "n2": 100.0, "n3": 105.0}, True),
        (2, {"x": 0.0, "y": 0.0}, False),
    ],
)
def test_the_breaker(nodes: int, vanished: dict[str, float], trips: bool) -> None:
    memory = NodeMemory(vanished=vanished)
    assert bool(breaker(memory, [f"n{n}" for n in range(nodes)], None, Limits())) is trips


def test_listing_the_nodes_takes_one_look_at_each_pod_however_many_nodes_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of pods on hundreds of nodes: the list is asked of the leader too, whose lease must not end over it."""
    world = World(30, memory_bytes=1 << 40)
    world.want(desired(instances=60))
    world.settle()
    looked: list[str] = []
    parse = keys.Family.parse

    def counted(family: keys.Family, key: str) -> tuple[str, ...]:
        looked.append(key)
        return parse(family, key)

    monkeypatch.setattr(keys.Family, "parse", counted)
    found = views.nodes(world.snapshots())
    assert len(found) == 30 and sum(node.pods for node in found) == 60
    assert len(looked) < 5 * len(world.entries)


def test_what_stands_on_a_node_dead_for_long_is_not_believed_in_the_grace_of_a_new_leader() -> None:
    """There was no room elsewhere, so its pods are used after all others. After an outage a new leader spares the node, not knowing; what
    ``observed`` says of them is from before they died."""
    world = World(2, memory_bytes=100 * MIB)
    world.want(desired(instances=4))
    world.settle()
    world.kill_node("n1")
    world.settle()
    before = world.endpoints()
    assert before.suspect and before.ready
    world.decider = Decider()
    for _ in range(5):
        decision = world.decider.decide(world.snapshots(), world.now, grace_until=world.now + 5)
        for actions in decision.writes.values():
            for action in actions:
                world.apply(action)
    after = world.endpoints()
    assert (after.ready, after.suspect) == (before.ready, before.suspect)
    world.heal_node("n1")
    world.now += 10
    world.settle()
    assert len(world.endpoints().ready) == 4
