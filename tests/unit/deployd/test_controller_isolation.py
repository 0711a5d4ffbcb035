"""One app's trouble is no other's: what cannot be read, planned or written, and what is too much for one transaction."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from lain_deployd.controller.actions import DropEndpoints, PutAssignment, PutEndpoints, PutStatus
from lain_deployd.controller.decide import Decider
from lain_deployd.controller.execute import MAX_BYTES, MAX_OPERATIONS, chunks
from lain_deployd.controller.world import Snapshots
from lain_shared import keys
from lain_shared.model.pod import Evidence, Observed, PodState
from lain_shared.model.route import Route
from lain_shared.model.status import ProcPhase
from lain_shared.records import encode
from lain_shared.store import ModRevision, Put
from tests.unit.deployd.simulation import World, desired, template


def prepared(*sizes: int) -> list[Any]:
    return [(None, ModRevision(f"k{n}", 0), Put(f"k{n}", b"x" * size)) for n, size in enumerate(sizes)]


def test_a_transaction_is_bounded_in_number_and_in_bytes() -> None:
    assert [len(chunk) for chunk in chunks(prepared(*[10] * (2 * MAX_OPERATIONS + 1)))] == [100, 100, 1]
    big = MAX_BYTES // 3
    assert [len(chunk) for chunk in chunks(prepared(*[big] * 5))] == [2, 2, 1]
    assert [len(chunk) for chunk in chunks(prepared(5, 2 * MAX_BYTES, 5))] == [1, 1, 1], "what is too big goes alone"
    assert list(chunks([])) == []


def test_the_status_of_a_proc_that_crashes_all_over_stays_small() -> None:
    world = World(1, memory_bytes=1 << 40)
    world.want(desired(instances=150, template=template("crash")))
    for _ in range(8):
        world.one_pass()
        world.agents()
        world.now += 1
    lines = tuple("x" * 500 for _ in range(20))
    for (node, pod), seen, _ in list(world.all(keys.OBSERVED)):
        told = Evidence(world.now, "exited", "exited with code 1", 1, last_lines=lines)
        after = Observed(seen.app, seen.proc, seen.instance, seen.generation, PodState.BACKOFF, 1, evidence=told)
        world.put(keys.OBSERVED.key(node, pod), after)
    world.one_pass()
    status = world.status()
    assert len(status.instances) == 150 and all(line.evidence is not None for line in status.instances)
    telling = [line.instance for line in status.instances if line.evidence and line.evidence.last_lines]
    assert telling == [1, 2, 3]
    assert len(encode(status, 1)) < 200_000


MALFORMED = (
    "/lain/observed/n1/x/y",
    "/lain/observed/n1",
    "/lain/desired/foo",
    "/lain/desired//web",
    "/lain/assign/n1/x/y",
    "/lain/alive/a/b",
    "/lain/alive/",
    "/lain/router-members/a/b",
    "/lain/router-members/",
    "/lain/endpoints/a/b/c",
    "/lain/status/a",
)


@pytest.mark.parametrize("key", MALFORMED)
def test_a_key_of_no_shape_of_ours_stops_nobody(key: str) -> None:
    world = World(1)
    world.want(desired())
    found = world.snapshots()
    families = {
        name: getattr(found, name) for name in found.__dataclass_fields__ if name not in ("revision", "unreadable")
    }
    decision = world.decider.decide(Snapshots(found.revision, **families, unreadable={key: "no such key"}), world.now)
    assert any(isinstance(action, PutAssignment) for action in decision.writes["hello"])


def test_an_app_that_cannot_be_planned_is_frozen_alone_and_says_so() -> None:
    world = World(1)
    world.want(desired("broken", max_surge="many"))
    world.want(desired("hello"))
    decision = world.decider.decide(world.snapshots(), world.now)
    (said,) = decision.writes["broken"]
    assert isinstance(said, PutStatus) and said.status.phase is ProcPhase.WAITING
    assert "cannot be planned" in said.status.message and "TypeError" in said.status.message
    assert any(isinstance(action, PutAssignment) for action in decision.writes["hello"])
    assert "broken" in world.decider.faults
    world.want(desired("broken"))
    world.settle()
    assert world.status("broken").phase is ProcPhase.STABLE and not world.decider.faults


def test_an_app_whose_writes_are_refused_is_tried_less_and_less_often() -> None:
    world, decider = World(1), Decider()
    world.want(desired("refused"))
    world.want(desired("hello"))
    now, tries = world.now, []
    while now < world.now + 100:
        decision = decider.decide(world.snapshots(), now)
        if "refused" in decision.writes:
            tries.append(now)
            decider.hold("refused", now)
        assert decider.tries_at is not None
        now = max(decider.tries_at, now + 0.001)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses == pytest.approx([min(0.1 * 2**n, 30.0) for n in range(len(pauses))], abs=0.01) and len(pauses) > 5
    decider.written("refused")
    assert "refused" in decider.decide(world.snapshots(), now).writes


def test_a_route_that_moves_is_never_in_two_transactions() -> None:
    """However many pods there are to order: all endpoints of an app are its first writes."""
    world = World(1, memory_bytes=1 << 40)
    route = Route("hello.lain.localhost")
    world.want(desired(proc="old", routes=(route,), instances=2))
    world.settle()
    world.want(desired(proc="old", release=2, routes=(), kept_routes=(route,), instances=2))
    world.want(desired(proc="web", release=2, routes=(route,), instances=3))
    moved = False
    for _ in range(60):
        decision = world.decider.decide(world.snapshots(), world.now)
        for actions in decision.writes.values():
            kinds = [isinstance(action, PutEndpoints | DropEndpoints) for action in actions]
            assert kinds == sorted(kinds, reverse=True), actions
            named = [a.endpoints.proc for a in actions if isinstance(a, PutEndpoints)]
            moved = moved or (set(named) == {"old", "web"} and not kinds[-1])
            for action in actions:
                world.apply(action)
        world.agents()
        world.step_routers()
        world.now += 0.5
    assert moved and world.endpoints(proc="web").routes == (route,)


def test_an_app_that_has_nothing_to_write_any_more_is_not_tried_again() -> None:
    """Its write was refused because the world had moved on; what is now wanted is so already. Nobody looks at the clock for it."""
    world = World(1)
    world.want(desired())
    world.settle()
    world.decider.hold("hello", world.now)
    for _ in range(3):
        world.now += 1
        assert not world.decider.decide(world.snapshots(), world.now).writes
    assert world.decider.tries_at is None


def test_an_app_that_is_left_alone_asks_for_no_look_that_is_past() -> None:
    """A leader that is asked to look at a time gone by would look without pause."""
    world = World(2, routers=1)
    world.want(desired())
    world.settle()
    world.routers["r1"].stuck = True
    world.want(desired(release=2, template=template("good2")))
    for _ in range(20):
        world.one_pass()
        world.agents()
    due = world.decider.decide(world.snapshots(), world.now).wake_at
    assert due is not None, "it waits for the router"
    for _ in range(10):
        world.decider.hold("hello", due)
    decision = world.decider.decide(world.snapshots(), due + 0.1)
    assert decision.wake_at is None or decision.wake_at > due + 0.1
    assert world.decider.tries_at is not None and world.decider.tries_at > due + 0.1
