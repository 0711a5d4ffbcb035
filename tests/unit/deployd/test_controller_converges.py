"""Whatever people, nodes and routers do, and wherever a pass is cut: no write breaks a rule, and in the end what is wanted is what runs.

The rules are checked by the simulation at every single write (``simulation.World``: surge, ready floor, no stop without acknowledgement,
no generation twice, nothing forgotten that exists, nobody moved to a node that is away).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from lain_deployd.controller.decide import Decider
from lain_shared import keys
from lain_shared.model.node import Drain, Node
from lain_shared.model.pod import Desired, ProcType, Strategy, Volume
from lain_shared.model.route import Route
from lain_shared.model.status import ProcPhase
from tests.unit.deployd.simulation import MIB, World, desired, template

PROCS = ("web", "api", "worker", "migrate")
NODES = ("n1", "n2", "n3")
ROUTES = (Route("hello.lain.localhost"), Route("hello.lain.localhost", "/api"))

Step = tuple[Any, ...]


@st.composite
def wanted(draw: st.DrawFn) -> Desired:
    proc = draw(st.sampled_from(PROCS))
    image = draw(st.sampled_from(("good", "good2", "bad")))
    kind = {"worker": ProcType.WORKER, "migrate": ProcType.ONESHOT}.get(proc, ProcType.WEB)
    memory = draw(st.sampled_from((32, 48))) * MIB
    port = draw(st.sampled_from((8000, 9000))) if kind is ProcType.WEB else None
    volumes: tuple[Volume, ...] = draw(st.sampled_from(((), (), (Volume("/data"),))))
    instances = draw(st.integers(0, 4))
    recreate = draw(st.booleans())
    return desired(
        proc=proc,
        type=kind,
        release=1,  # the next one, when it is asked for
        template=template(image, memory_bytes=memory, port=port, volumes=volumes),
        instances=min(instances, 1) if kind is ProcType.ONESHOT else instances,
        stopped=draw(st.sampled_from(((), (), (1,), (2,)))),
        restarts=draw(st.sampled_from(({}, {1: 1}, {2: 1}))),
        strategy=Strategy.RECREATE if volumes or recreate else Strategy.START_FIRST,
        max_surge=draw(st.integers(1, 2)),
        routes=draw(st.sampled_from(((), ROUTES[:1], ROUTES[1:], ROUTES))) if kind is ProcType.WEB else (),
        min_ready_seconds=draw(st.sampled_from((0.0, 0.0, 3.0))),
        drain_seconds=draw(st.sampled_from((0.0, 5.0))),
    )


def perform(world: World, name: str, *arguments: Any) -> None:
    """One step: a method of the world, or one of the small misfortunes below."""
    match name, arguments:
        case "want", (want,):
            world.releases += 1
            world.want(replace(want, release=world.releases))
        case "scale", (proc, instances):
            if (known := world.wanted("hello", proc)) is not None and known.type is not ProcType.ONESHOT:
                world.want(replace(known, instances=instances))
        case "delete one", (family, which):
            # the status of a oneshot is the memory that it ran; and who deletes two families deletes all evidence
            found = [parts for parts, _, _ in world.all(family) if parts != ("hello", "migrate")]
            if found and world.tampered in (None, family):
                world.tampered = family
                world.delete(family.key(*found[which % len(found)]))
        case "crash", (which,):
            if pods := [pod for (_, pod), _, _ in world.all(keys.OBSERVED)]:
                world.crashing.add(pods[which % len(pods)])
        case "busy", (which,):
            every = {e.address for _, ep, _ in world.all(keys.ENDPOINTS) for e in (*ep.ready, *ep.draining)}
            if addresses := sorted(every):
                world.routers["r1"].busy.add(addresses[which % len(addresses)])
        case "advance", (seconds,):
            world.now += seconds
        case "stick", (router,):
            world.routers[router].stuck = True
        case "drain", (node,):
            world.put(keys.DRAINS.key(node), Drain(node))
        case "end drain", (node,):
            world.delete(keys.DRAINS.key(node))
        case "cordon", (node,):
            world.put(keys.NODES.key(node), Node(node, "10.0.0.1", cordoned=True))
        case _:
            getattr(world, name)(*arguments)


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), *arguments)


nodes, routers, numbers = st.sampled_from(NODES), st.sampled_from(("r1", "r2")), st.integers(0, 20)
people = st.one_of(
    step("want", wanted()),
    step("want", wanted()),
    step("scale", st.sampled_from(PROCS), st.integers(0, 4)),
    step("unwant", st.just("hello"), st.sampled_from(PROCS)),
    step("drain", nodes),
    step("end drain", nodes),
    step("cordon", nodes),
    step("delete one", st.sampled_from((keys.ASSIGN, keys.STATUS, keys.ENDPOINTS)), numbers),
)
faults = st.one_of(
    step("kill_node", nodes),
    step("heal_node", nodes),
    step("stick", routers),
    step("kill_router", routers),
    step("revive_router", routers),
    step("crash", numbers),
    step("busy", numbers),
)
work = st.one_of(
    step("one_pass"),
    step("one_pass"),
    step("one_pass", st.integers(0, 8)),
    step("agents"),
    step("agents"),
    step("step_routers"),
    step("advance", st.sampled_from((0.1, 1.0, 5.0, 40.0))),
)
steps = st.lists(st.one_of(people, faults, work, work, work), max_size=60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps=steps)
def test_what_is_wanted_is_what_runs_in_the_end(steps: list[Step]) -> None:
    world = World(nodes=3, routers=2)
    for name, *arguments in steps:
        perform(world, name, *arguments)
    for node in NODES:
        world.heal_node(node)
        world.delete(keys.DRAINS.key(node))
        world.put(keys.NODES.key(node), Node(node, "10.0.0.1"))
    for router in world.routers:
        world.revive_router(router)
    world.settle()
    judge(world)
    world.decider = Decider()
    assert world.one_pass() == 0, "a settled world is left alone by a new leader"


def judge(world: World) -> None:
    wants = {proc: value for (_, proc), value, _ in world.all(keys.DESIRED)}
    for proc in PROCS:
        if proc in wants:
            judge_proc(world, wants[proc])
        else:
            assert not world.pods(proc=proc)
            assert world.get(keys.ENDPOINTS, "hello", proc) is None and world.get(keys.STATUS, "hello", proc) is None
    ran = [each[:4] for each in world.oneshots_run]
    assert len(ran) == len(set(ran)), "a oneshot ran twice for one release"
    served = [route for _, endpoints, _ in world.all(keys.ENDPOINTS) for route in endpoints.routes]
    assert len({(route.host, route.path) for route in served}) == len(served), "one route leads to two procs"


def judge_proc(world: World, want: Desired) -> None:
    status = world.status(proc=want.proc)
    instances = [n for n in range(1, want.instances + 1) if n not in want.stopped]
    if want.type is ProcType.ONESHOT:
        assert status.phase in (ProcPhase.DONE, ProcPhase.FAILED), status
        return
    if want.template.image == "bad":
        return
    running = sorted((order for _, order in world.pods(proc=want.proc)), key=lambda order: order.instance)
    assert [order.instance for order in running] == instances, (running, status)
    for order in running:
        assert order.run and not order.draining and order.template == want.template
        assert (order.release, order.stateful) == (want.release, want.stateful)
    assert status.phase is ProcPhase.STABLE and status.updated == len(instances), status
    endpoints = world.get(keys.ENDPOINTS, "hello", want.proc)
    if want.template.port is None:
        assert endpoints is None or not endpoints.addresses
    elif instances:
        assert [endpoint.instance for endpoint in endpoints.ready] == instances
        assert not endpoints.suspect and not endpoints.draining and endpoints.port == want.template.port
        elsewhere = {
            route for _, other, _ in world.all(keys.DESIRED) for route in other.routes if other.proc != want.proc
        }
        assert set(want.routes) - elsewhere <= set(endpoints.routes) <= set(want.routes) | elsewhere


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cuts=st.lists(st.integers(0, 6), max_size=40), before=wanted(), after=wanted())
def test_a_rollout_ends_though_every_pass_is_cut(cuts: list[int], before: Desired, after: Desired) -> None:
    after = replace(
        after, proc=before.proc, type=before.type, template=replace(after.template, port=before.template.port)
    )
    if before.type is not ProcType.WEB:
        after = replace(after, routes=())
    if before.type is ProcType.ONESHOT:
        after = replace(after, instances=min(after.instances, 1))
    world = World(nodes=2, routers=1)
    world.want(before)
    world.settle()
    world.want(after)
    for cut in cuts:
        world.one_pass(cut)
        world.agents()
        world.step_routers()
        world.now += 0.2
    world.settle()
    judge(world)
