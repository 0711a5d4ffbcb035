"""The agent's plan: from anything observed, with a pass cut at any point, it converges, and touches only what is ours."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lain_deployd.agent.engine import Container, ContainerState, Limits
from lain_deployd.agent.limits import level_of, limits_of, same
from lain_deployd.agent.observing import observe
from lain_deployd.agent.plan import (
    after_engine_restart,
    after_exit,
    after_failure,
    backoff_seconds,
    diff,
    due_at,
    next_step,
)
from lain_deployd.agent.pods import (
    Action,
    Create,
    Forget,
    Ground,
    Health,
    Memory,
    NoteExit,
    NoteUnready,
    Order,
    Remove,
    Restart,
    Start,
    Stop,
    Update,
    View,
)
from lain_shared.model.pod import Assignment, Evidence, PodId, PodState, PodTemplate, ProcType, Volume

MIB = 1024 * 1024
CPUS = 4
TEMPLATES = tuple(PodTemplate("app@sha256:1", cpu=cpu, memory_bytes=size * MIB) for cpu in (0, 4) for size in (16, 32))
STATES = tuple(ContainerState)


@dataclass
class World:
    """A node as the plan sees it, and what its Engine would do."""

    orders: dict[PodId, Order]
    containers: dict[PodId, tuple[Container, ...]]
    memory: dict[PodId, Memory] = field(default_factory=dict)
    now: float = 10_000.0
    whole: bool = True
    addresses: tuple[str, ...] = tuple(f"172.20.1.{n}" for n in range(2, 30))
    touched: list[tuple[PodId, str]] = field(default_factory=list)

    @property
    def ground(self) -> Ground:
        return Ground(self.now, self.whole, cpus=CPUS)

    def free(self) -> tuple[str, ...]:
        used = {memory.address for memory in self.memory.values()}
        used |= {container.address for pod in self.containers.values() for container in pod}
        return tuple(address for address in self.addresses if address not in used)

    def plan(self) -> tuple[Action, ...]:
        return diff(self.orders, self.containers, self.memory, self.ground, self.free())

    def carry_out(self, action: Action) -> None:
        pod = action.pod
        memory = self.memory.get(pod, Memory())
        here = self.containers.get(pod, ())
        match action:
            case Create(_, address):
                assert not here, "a pod is one container"
                template = self.orders[pod].assignment.template
                self.memory[pod] = replace(memory, address=address)
                self.put(pod, (made(pod, ContainerState.CREATED, limits_of(template, CPUS), address, f"new-{pod}"),))
            case Start(_, container) | Update(_, container, _) | Stop(_, container, _) | Restart(_, container, _, _):
                self.touched.append((pod, container))
                self.put(pod, tuple(self.after(action, one) if one.id == container else one for one in here))
            case Remove(_, container):
                self.touched.append((pod, container))
                self.put(pod, tuple(one for one in here if one.id != container))
            case NoteExit(_, container):
                self.memory[pod] = after_exit(memory, container, self.orders[pod].assignment.type, self.ground)
            case NoteUnready():
                self.memory[pod] = replace(memory, unready_noted_at=self.now)
            case Forget():
                self.memory.pop(pod, None)

    def after(self, action: Action, container: Container) -> Container:
        match action:
            case Start():
                return replace(container, state=ContainerState.RUNNING, started_at=self.now, exit_code=None)
            case Update(_, _, limits):
                return replace(container, limits=limits)
        return replace(container, state=ContainerState.EXITED, exit_code=143, finished_at=self.now)

    def put(self, pod: PodId, containers: tuple[Container, ...]) -> None:
        if containers:
            self.containers[pod] = containers
        else:
            self.containers.pop(pod, None)

    def run_to_rest(self) -> int:
        """Passes until there is nothing more to do; time passes where something waits, and what is being removed goes."""
        for passes in range(40):
            actions = self.plan()
            waiting = [
                due_at(View(pod, self.orders.get(pod), self.containers.get(pod, ()), self.memory.get(pod)), self.ground)
                for pod in self.orders
            ]
            for pod, here in list(self.containers.items()):
                self.put(pod, tuple(one for one in here if one.state is not ContainerState.REMOVING))
            if not actions and not any(waiting) and self.plan() == ():
                return passes
            for action in actions:
                self.carry_out(action)
            self.now += max((at - self.now for at in waiting if at is not None), default=0.0) + 0.001
        raise AssertionError(f"it does not come to rest: {self.plan()}")


def made(pod: PodId, state: ContainerState, limits: Limits, address: str, name: str, *, age: float = 0.0) -> Container:
    started = None if state is ContainerState.CREATED else 9_000.0 - age
    ended = state in (ContainerState.EXITED, ContainerState.DEAD)
    return Container(
        id=name, name=str(pod), labels={"lain.kill-timeout": "7"}, state=state, image="x", limits=limits, address=address,
        created_at=9_000.0 - age, started_at=started, finished_at=9_500.0 if ended else None, exit_code=1 if ended else None,
    )  # fmt: skip


pods = st.builds(PodId, st.sampled_from(["a", "b.c"]), st.just("web"), st.integers(1, 2), st.integers(1, 3))
kinds = st.sampled_from([ProcType.WEB, ProcType.WORKER])


@st.composite
def worlds(draw: st.DrawFn, *, whole: bool = True) -> World:
    orders: dict[PodId, Order] = {}
    for pod in draw(st.sets(pods, max_size=5)):
        given = Assignment(
            pod.app, pod.proc, pod.instance, pod.generation, draw(kinds), 1, draw(st.sampled_from(TEMPLATES)),
            run=draw(st.booleans()),
        )  # fmt: skip
        orders[pod] = Order(given, 7)
    containers: dict[PodId, tuple[Container, ...]] = {}
    taken = 100
    for pod in draw(st.sets(pods, max_size=5)):
        here = []
        for number in range(draw(st.integers(1, 2))):
            taken += 1
            limits = limits_of(draw(st.sampled_from(TEMPLATES)), CPUS)
            here.append(
                made(
                    pod,
                    draw(st.sampled_from(STATES)),
                    limits,
                    f"172.20.1.{taken}",
                    f"{pod}-{number}",
                    age=float(number),
                )
            )
        containers[pod] = tuple(here)
    memory = {
        pod: Memory(address=here[0].address, crashes_in_a_row=draw(st.integers(0, 9)), restarts=draw(st.integers(0, 9)))
        for pod, here in containers.items()
    }
    return World(orders, containers, memory, whole=whole)


@settings(max_examples=150, deadline=None)
@given(world=worlds(), cut=st.integers(0, 6), finish_pass=st.booleans())
def test_it_converges_though_a_pass_dies_half_way(world: World, cut: int, finish_pass: bool) -> None:
    for action in world.plan()[:cut]:
        world.carry_out(action)
    if finish_pass:
        world.now += 1.0
    world.run_to_rest()
    wanted = {pod for pod, order in world.orders.items() if order.assignment.run}
    assert set(world.containers) == wanted
    for pod in wanted:
        (container,) = world.containers[pod]
        assert container.state in (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)
        if container.state is ContainerState.RUNNING:
            assert same(container.limits, limits_of(world.orders[pod].assignment.template, CPUS))
        assert container.address
    addresses = [here[0].address for here in world.containers.values()]
    assert len(set(addresses)) == len(addresses), "two pods with one address"
    assert set(world.memory) <= wanted
    assert world.plan() == ()


@settings(max_examples=80, deadline=None)
@given(world=worlds())
def test_what_runs_as_wanted_is_not_touched(world: World) -> None:
    world.run_to_rest()
    world.touched.clear()
    before = dict(world.containers)
    world.now += 1_000.0
    assert world.plan() == ()
    assert world.containers == before and world.touched == []


@settings(max_examples=80, deadline=None)
@given(world=worlds(whole=False))
def test_on_missing_evidence_nothing_is_stopped_or_removed(world: World) -> None:
    unknown = {pod: here for pod, here in world.containers.items() if pod not in world.orders}
    for _ in range(10):
        for action in world.plan():
            assert action.pod in world.orders, action
            world.carry_out(action)
        world.now += 1.0
    for pod, here in unknown.items():
        assert world.containers[pod] == here


@settings(max_examples=40, deadline=None)
@given(world=worlds())
def test_a_plan_is_the_same_for_the_same_world(world: World) -> None:
    assert world.plan() == world.plan()


# --- steps, one by one --------------------------------------------------------------------------------------------------

POD = PodId("hello", "web", 1, 5)


def order(kind: ProcType = ProcType.WEB, *, run: bool = True, template: PodTemplate = TEMPLATES[0]) -> Order:
    return Order(Assignment("hello", "web", 1, 5, kind, 1, template, run=run), 9)


def container(state: ContainerState, **more: object) -> Container:
    return replace(made(POD, state, limits_of(TEMPLATES[0], CPUS), "172.20.1.5", "c1"), **more)  # type: ignore[arg-type]


def view(
    state: ContainerState | None, memory: Memory | None = None, given: Order | None = None, health: Health | None = None
) -> View:
    here = () if state is None else (container(state),)
    return View(POD, given if given is not None else order(), here, memory or Memory(address="172.20.1.5"), health)


@pytest.mark.parametrize("state", [ContainerState.CREATED, ContainerState.RUNNING, ContainerState.EXITED])
def test_a_container_without_the_address_it_was_made_for_is_made_anew(state: ContainerState) -> None:
    """An Engine that died while it made one knows its name and nothing of its network: started, it got any address of the block."""
    half_made = View(POD, order(), (container(state, address=""),), Memory(address="172.20.1.5"))
    assert next_step(half_made, Ground(100.0, True, cpus=CPUS)) == Remove(POD, "c1")
    again = replace(half_made, containers=())
    assert next_step(again, Ground(100.0, True, cpus=CPUS)) == Create(POD, "172.20.1.5")


def test_a_new_pod_waits_for_an_address_and_keeps_it() -> None:
    fresh = View(POD, order(), (), None)
    assert next_step(fresh, Ground(100.0, True)) is None
    assert next_step(fresh, Ground(100.0, True, address="172.20.1.9")) == Create(POD, "172.20.1.9")
    again = View(POD, order(), (), Memory(address="172.20.1.2"))
    assert next_step(again, Ground(100.0, True, address="172.20.1.9")) == Create(POD, "172.20.1.2")


ALONE: list[dict[str, object]] = [
    {"singleton": True},
    {"stateful": True},
    {"recreate": True},
    {"template": replace(TEMPLATES[0], volumes=(Volume("/data"),))},
]


@pytest.mark.parametrize("more", ALONE, ids=["singleton", "stateful", "recreate", "volume"])
def test_what_must_be_alone_waits_until_its_predecessor_is_gone(more: dict[str, object]) -> None:
    given = order()
    given = replace(given, assignment=replace(given.assignment, generation=6, **more))  # type: ignore[arg-type]
    ground = Ground(100.0, True, cpus=CPUS)
    for state in STATES:
        before = (container(state, started_at=1.0, finished_at=2.0),)
        actions = diff({given.pod: given}, {POD: before}, {}, ground, ["172.20.1.9"])
        assert not [action for action in actions if isinstance(action, Create | Start)], state
        made_already = {POD: before, given.pod: (container(ContainerState.CREATED, id="c2"),)}
        actions = diff({given.pod: given}, made_already, {given.pod: Memory(address="x")}, ground)
        assert not [action for action in actions if isinstance(action, Create | Start)], state
    assert diff({given.pod: given}, {}, {}, ground, ["172.20.1.9"]) == (Create(given.pod, "172.20.1.9"),)
    other = PodId("hello", "web", 2, 5)
    assert Create(given.pod, "172.20.1.9") in diff({given.pod: given}, {other: before}, {}, ground, ["172.20.1.9"])
    waiting = observe(View(given.pod, given, (), None, in_the_way=str(POD)), ground)
    assert waiting is not None and waiting.progress == f"waiting until {POD} is gone"


def test_what_may_stand_beside_its_predecessor_does_not_wait_for_it() -> None:
    given = order()
    given = replace(given, assignment=replace(given.assignment, generation=6))
    running = {POD: (container(ContainerState.RUNNING),)}
    assert Create(given.pod, "y") in diff({given.pod: given}, running, {}, Ground(100.0, True, cpus=CPUS), ["y"])


def test_a_oneshot_that_ended_well_is_left_as_it_is() -> None:
    given = order(ProcType.ONESHOT)
    ended = container(ContainerState.EXITED, exit_code=0)
    noted = after_exit(Memory(address="x"), ended, ProcType.ONESHOT, Ground(10_000.0, True))
    assert noted.done_exit_code == 0 and noted.restarts == 0
    done = View(POD, given, (ended,), noted)
    assert next_step(done, Ground(1e9, True)) is None
    assert next_step(replace(done, containers=()), Ground(1e9, True, address="y")) is None
    seen = observe(done, Ground(1e9, True))
    assert seen is not None and (seen.state, seen.exit_code) == (PodState.EXITED, 0)


def test_a_oneshot_that_fails_is_tried_three_times_more() -> None:
    memory, tries, ground = Memory(address="x"), 0, Ground(10_000.0, True)
    while memory.done_exit_code is None:
        tries += 1
        ended = container(ContainerState.EXITED, exit_code=4, finished_at=9_000.0 + tries, started_at=8_999.5 + tries)
        memory = after_exit(memory, ended, ProcType.ONESHOT, ground)
        ground = replace(ground, now=max(ground.now, memory.retry_at))
    assert (tries, memory.done_exit_code) == (4, 4)


def test_an_exit_is_noted_once() -> None:
    ended = container(ContainerState.EXITED)
    fresh = View(POD, order(), (ended,), Memory(address="x"))
    assert next_step(fresh, Ground(10_000.0, True)) == NoteExit(POD, ended)
    noted = after_exit(Memory(address="x"), ended, ProcType.WEB, Ground(10_000.0, True))
    assert next_step(replace(fresh, memory=noted), Ground(10_000.0, True)) == Start(POD, "c1")


def test_restarts_come_at_once_then_after_1_2_4_up_to_300_seconds() -> None:
    memory, waits, at = Memory(), [], 10_000.0
    for _ in range(12):
        ended = container(ContainerState.EXITED, started_at=at, finished_at=at + 5)
        memory = after_exit(memory, ended, ProcType.WEB, Ground(at + 5, True))
        waits.append(memory.retry_at - at - 5)
        at = memory.retry_at + 0.5
    assert waits == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    well = container(ContainerState.EXITED, started_at=at, finished_at=at + 600)
    memory = after_exit(memory, well, ProcType.WEB, Ground(at + 600, True))
    assert memory.retry_at == at + 600 and memory.restarts == 13 and memory.crashes_in_a_row == 1


def test_an_exit_before_the_engine_came_up_is_no_crash() -> None:
    ended = container(ContainerState.EXITED, exit_code=255)
    noted = after_exit(Memory(restarts=2, crashes_in_a_row=5), ended, ProcType.WEB, Ground(10_000.0, True, 9_900.0))
    assert (noted.restarts, noted.crashes_in_a_row, noted.retry_at) == (2, 5, 0.0)


def test_an_exit_as_the_engine_went_down_is_forgiven() -> None:
    ended = container(ContainerState.EXITED, started_at=9_990.0, finished_at=9_995.0)
    counted = after_exit(Memory(restarts=1, crashes_in_a_row=3), ended, ProcType.WEB, Ground(9_996.0, True))
    assert counted.restarts == 2 and counted.retry_at > 9_996.0
    forgiven = after_engine_restart(counted, 9_997.0, 10_000.0)
    assert (forgiven.restarts, forgiven.crashes_in_a_row, forgiven.retry_at) == (1, 3, 10_000.0)
    assert after_engine_restart(forgiven, 9_997.0, 10_000.0) == forgiven
    long_ago = replace(counted, exit_seen_at=9_000.0)
    assert after_engine_restart(long_ago, 9_997.0, 10_000.0) == long_ago


def test_a_stop_uses_the_orders_patience_or_the_labels() -> None:
    running = view(ContainerState.RUNNING, given=order(run=False))
    assert next_step(running, Ground(1.0, True)) == Stop(POD, "c1", 10)
    orphan = replace(running, order=None)
    assert next_step(orphan, Ground(1.0, True)) == Stop(POD, "c1", 7)
    assert next_step(orphan, Ground(1.0, False)) is None


def test_limits_are_changed_in_place_and_a_refusal_is_respected_for_a_while() -> None:
    wanted = limits_of(TEMPLATES[3], CPUS)
    running = view(ContainerState.RUNNING, given=order(template=TEMPLATES[3]))
    assert next_step(running, Ground(50.0, True, cpus=CPUS)) == Update(POD, "c1", wanted)
    refused = replace(running, memory=Memory(refused=wanted, refused_until=80.0, refused_by=9))
    assert next_step(refused, Ground(50.0, True, cpus=CPUS)) is None
    assert due_at(refused, Ground(50.0, True, cpus=CPUS)) == 80.0
    assert next_step(refused, Ground(81.0, True, cpus=CPUS)) == Update(POD, "c1", wanted)
    asked_again = replace(refused, order=replace(order(template=TEMPLATES[3]), revision=10))
    assert next_step(asked_again, Ground(50.0, True, cpus=CPUS)) == Update(POD, "c1", wanted)


def test_a_refusal_is_told_of_the_order_that_was_refused_alone() -> None:
    """Of what stood before or is asked for next it says nothing; what crashed before is known again then."""
    crash = Evidence(5.0, "exited", "exited with 1")
    memory = Memory(
        evidence=crash,
        refused=limits_of(TEMPLATES[3], CPUS),
        refused_at=6.0,
        refused_by=9,
        refused_why="24 MiB are in use",
    )
    seen = observe(view(ContainerState.RUNNING, memory), Ground(10_000.0, True, cpus=CPUS))
    assert seen is not None and seen.state is PodState.RUNNING
    assert (seen.error, seen.evidence) == ("24 MiB are in use", Evidence(6.0, "limits_refused", "24 MiB are in use"))
    seen = observe(
        view(ContainerState.RUNNING, memory, replace(order(), revision=10)), Ground(10_000.0, True, cpus=CPUS)
    )
    assert seen is not None and (seen.error, seen.evidence) == ("", crash)


def test_a_probe_restarts_only_the_run_it_saw() -> None:
    seen = Health(run=9_000.0, restart_because="liveness")
    running = view(ContainerState.RUNNING, health=seen)
    assert next_step(running, Ground(9_100.0, True, cpus=CPUS)) == Restart(POD, "c1", 10, "liveness")
    later = replace(running, health=replace(seen, run=8_000.0))
    assert next_step(later, Ground(9_100.0, True, cpus=CPUS)) is None


def test_what_runs_and_does_not_get_ready_is_looked_at_once_a_minute() -> None:
    running = view(ContainerState.RUNNING, health=Health(run=9_000.0, text="readiness: refused"))
    assert next_step(running, Ground(9_003.0, True, cpus=CPUS)) is None
    assert due_at(running, Ground(9_003.0, True, cpus=CPUS)) == 9_005.0
    assert isinstance(next_step(running, Ground(9_006.0, True, cpus=CPUS)), NoteUnready)
    noted = replace(running, memory=Memory(address="x", unready_noted_at=9_006.0))
    assert next_step(noted, Ground(9_030.0, True, cpus=CPUS)) is None
    assert isinstance(next_step(noted, Ground(9_067.0, True, cpus=CPUS)), NoteUnready)


@given(level=st.integers(0, 8), cpus=st.integers(1, 64), size=st.integers(1, 4096))
def test_limits_and_levels_are_one_another(level: int, cpus: int, size: int) -> None:
    limits = limits_of(PodTemplate("x", cpu=level, memory_bytes=size * MIB), cpus)
    assert level_of(limits, cpus) == level
    assert limits.memory_bytes == max(6, size) * MIB
    if level:
        assert limits.cpu_quota_percent == pytest.approx(level / 8 * cpus * 50)


def test_backoff_grows_and_has_an_end() -> None:
    assert [backoff_seconds(step) for step in (0, 1, 2, 3, 9, 10, 1000)] == [0, 1, 2, 4, 256, 300, 300]
    memory = after_failure(after_failure(Memory(), 0.0), 0.0, at_most_seconds=15.0)
    assert (memory.failures, memory.retry_at) == (2, 2.0)


@pytest.mark.parametrize(
    ("state", "memory", "busy", "told"),
    [
        (None, Memory(address="x"), "", PodState.PENDING),
        (None, Memory(address="x"), "pulling 1 of 9 MB", PodState.PULLING),
        (None, Memory(address="x", failures=1, retry_at=9e9), "", PodState.FAILED),
        (ContainerState.CREATED, Memory(address="x"), "starting", PodState.CREATED),
        (ContainerState.CREATED, Memory(address="x", failures=2), "", PodState.FAILED),
        (ContainerState.RUNNING, Memory(address="x"), "", PodState.RUNNING),
        (ContainerState.EXITED, Memory(address="x"), "", PodState.BACKOFF),
    ],
)
def test_states_as_they_are_told(state: ContainerState | None, memory: Memory, busy: str, told: PodState) -> None:
    seen = observe(replace(view(state, memory), busy=busy), Ground(10_000.0, True, cpus=CPUS))
    assert seen is not None and seen.state is told and not seen.ready
    stopping = observe(replace(view(state, memory, order(run=False)), busy=busy), Ground(10_000.0, True))
    assert stopping is not None and stopping.state is PodState.STOPPING


def test_an_address_is_published_from_the_moment_the_container_is_there() -> None:
    assert _address(None) == ""
    assert _address(ContainerState.CREATED) == "172.20.1.5"


def _address(state: ContainerState | None) -> str:
    seen = observe(view(state), Ground(10_000.0, True))
    assert seen is not None
    return seen.address


def test_readiness_counts_only_for_the_run_it_was_seen_of() -> None:
    running = view(ContainerState.RUNNING, health=Health(9_000.0, True, 9_001.0))
    seen = observe(running, Ground(10_000.0, True))
    assert seen is not None and seen.ready and seen.ready_at == 9_001.0
    other = observe(replace(running, health=Health(8_000.0, True, 8_001.0)), Ground(10_000.0, True))
    assert other is not None and not other.ready and other.ready_at is None


def test_nothing_is_told_of_a_pod_that_left_no_trace() -> None:
    assert observe(View(POD, order(run=False), (), None), Ground(1.0, True)) is None
    assert observe(View(POD, None, (), None), Ground(1.0, True)) is None
