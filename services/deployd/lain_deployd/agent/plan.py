"""What to do next with each pod: pure, no clock, no client. From anything observed it converges, and touches nothing that is not ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from lain_deployd.agent.engine import Container, ContainerState
from lain_deployd.agent.limits import limits_of, same
from lain_deployd.agent.pods import (
    LABEL_KILL_TIMEOUT,
    Action,
    Create,
    Forget,
    Ground,
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
from lain_shared.model.pod import PodId, ProcType

GOOD_RUN_SECONDS = 600.0
"""A run this long was good: the next crash is the first again."""
MAX_BACKOFF_SECONDS = 300.0
ONESHOT_RESTARTS = 3
UNREADY_SECONDS = 5.0
"""What runs this long and is not ready is worth a look: probe text and last lines are kept."""
UNREADY_AGAIN_SECONDS = 60.0
ENGINE_STOP_SECONDS = 20.0
"""An Engine that stops takes its containers down this long before it stops answering."""
ENDED = (ContainerState.EXITED, ContainerState.DEAD)
ALIVE = (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)


def diff(
    assigned: Mapping[PodId, Order],
    observed: Mapping[PodId, tuple[Container, ...]],
    memory: Mapping[PodId, Memory],
    ground: Ground,
    addresses: Iterable[str] = (),
) -> tuple[Action, ...]:
    """The next safe action of each pod. ``addresses``: free ones, in the order in which they are to be given out."""
    free = iter(addresses)
    actions: list[Action] = []
    for pod in sorted(assigned.keys() | observed.keys() | memory.keys()):
        order = assigned.get(pod)
        blocked = in_the_way(order, (other for other, there in observed.items() if there))
        view = View(pod, order, in_order(observed.get(pod, ())), memory.get(pod), in_the_way=blocked)
        needs = view.order is not None and view.order.assignment.run and not view.containers
        if needs and not (view.memory and view.memory.address):
            step = next_step(view, replace(ground, address=next(free, "")))
        else:
            step = next_step(view, ground)
        if step is not None:
            actions.append(step)
    return tuple(actions)


def in_the_way(order: Order | None, there: Iterable[PodId]) -> str:
    """Of the pods that are ``there``, the one that has to be gone before this one is made or started; "": none."""
    if order is None or not order.assignment.run or not order.assignment.alone:
        return ""
    pod = order.pod
    instance = pod.app, pod.proc, pod.instance
    return next(
        (str(other) for other in there if other != pod and (other.app, other.proc, other.instance) == instance), ""
    )


def in_order(containers: tuple[Container, ...]) -> tuple[Container, ...]:
    """The one that counts first: running before not, the newest before others."""
    return tuple(sorted(containers, key=lambda one: (one.state in ALIVE, one.created_at, one.id), reverse=True))


def is_ahead(at: float, now: float, at_most_seconds: float) -> bool:
    """Whether ``at`` is to be waited for. What is further off than anybody ever waits is from before the clock was set back, and is due."""
    return now < at <= now + at_most_seconds


def next_step(view: View, ground: Ground) -> Action | None:
    """What to do now with one pod; None: nothing, or not yet (see ``due_at``)."""
    if view.order is None and not ground.whole:
        return None  # unknown is not empty
    for surplus in view.containers[1:]:  # a pod is one container
        if surplus.state is not ContainerState.REMOVING:
            return Remove(view.pod, surplus.id)
    if view.order is not None and view.order.assignment.run:
        return _toward_running(view, view.order, ground)
    return _toward_gone(view)


def _toward_gone(view: View) -> Action | None:
    container = view.container
    if container is None:
        return None if view.memory is None else Forget(view.pod)
    if container.state in ALIVE:
        return Stop(view.pod, container.id, _kill_timeout(view, container))
    return None if container.state is ContainerState.REMOVING else Remove(view.pod, container.id)


def _kill_timeout(view: View, container: Container) -> int:
    if view.order is not None:
        return view.order.assignment.template.kill_timeout_seconds
    text = container.labels.get(LABEL_KILL_TIMEOUT, "")
    return int(text) if text.isdigit() else 10


def _toward_running(view: View, order: Order, ground: Ground) -> Action | None:
    memory, container = view.memory or Memory(), view.container
    if memory.done_exit_code is not None:
        is_left = container is not None and container.state is not ContainerState.REMOVING
        return Remove(view.pod, container.id) if container and is_left and memory.discard == container.id else None
    may_start = not view.in_the_way and not is_ahead(memory.retry_at, ground.now, MAX_BACKOFF_SECONDS)
    if container is not None and not container.address and container.state is not ContainerState.REMOVING:
        return Remove(view.pod, container.id)  # made while the Engine died: it would give it any address, or has
    match container.state if container is not None else None:
        case None:
            address = memory.address or ground.address
            return Create(view.pod, address) if address and may_start else None
        case ContainerState.DEAD if container is not None:
            return Remove(view.pod, container.id)
        case ContainerState.CREATED if container is not None:
            return Start(view.pod, container.id) if may_start else None
        case ContainerState.EXITED if container is not None:
            if container.finished_at is not None and container.finished_at != memory.exit_seen_at:
                return NoteExit(view.pod, container)
            if memory.discard == container.id:
                return Remove(view.pod, container.id)
            return Start(view.pod, container.id) if may_start else None
        case ContainerState.RUNNING if container is not None:
            return _while_running(view, order, container, memory, ground)
    return None


def _while_running(view: View, order: Order, container: Container, memory: Memory, ground: Ground) -> Action | None:
    template = order.assignment.template
    health = view.health_now
    if health is not None and health.restart_because:
        patience = 0 if memory.discard == container.id else template.kill_timeout_seconds  # it writes on meanwhile
        return Restart(view.pod, container.id, patience, health.restart_because)
    wanted = limits_of(template, ground.cpus)
    if not same(wanted, container.limits):
        refused_lately = is_ahead(memory.refused_until, ground.now, MAX_BACKOFF_SECONDS)
        if not (refused_lately and memory.refused == wanted and memory.refused_by == order.revision):
            return Update(view.pod, container.id, wanted)
    if health is not None and not health.ready and health.text and ground.now >= _unready_due(container, memory):
        return NoteUnready(view.pod, container, health.text)
    return None


def _unready_due(container: Container, memory: Memory) -> float:
    """When evidence of its not getting ready is kept (again)."""
    return max((container.started_at or 0.0) + UNREADY_SECONDS, memory.unready_noted_at + UNREADY_AGAIN_SECONDS)


def due_at(view: View, ground: Ground) -> float | None:
    """When to look at this pod again although nothing changes; None: no need."""
    if view.order is None or not view.order.assignment.run or view.memory is None:
        return None
    times = [view.memory.retry_at, view.memory.refused_until]
    if view.container is not None and view.health_now is not None and not view.health_now.ready:
        times.append(_unready_due(view.container, view.memory))
    return min((at for at in times if at > ground.now), default=None)


# --- what an exit or a failure means for the next try -----------------------------------------------------------------


def is_crash(container: Container, engine_since: float) -> bool:
    """An exit across a node or Engine start is none."""
    return container.finished_at is not None and container.finished_at >= engine_since


def after_exit(memory: Memory, container: Container, kind: ProcType, ground: Ground) -> Memory:
    """Account for the exit of ``container``: when to start it again, or never (a oneshot that is done)."""
    finished_at = container.finished_at if container.finished_at is not None else ground.now
    seen = replace(
        memory,
        exit_seen_at=finished_at,
        exit_counted=False,
        unready_noted_at=0.0,
        failures=0,
        retry_at=0.0,
        ended_at=finished_at,
        ended_before_at=memory.ended_at,
    )
    if kind is ProcType.ONESHOT and container.exit_code == 0:
        return replace(seen, done_exit_code=0)
    if not is_crash(container, ground.engine_since):
        return seen
    ran = finished_at - (container.started_at or finished_at)
    row = 1 if ran >= GOOD_RUN_SECONDS else memory.crashes_in_a_row + 1
    if kind is ProcType.ONESHOT:
        row = memory.crashes_in_a_row + 1
        if row > ONESHOT_RESTARTS:
            return replace(
                seen, restarts=memory.restarts + 1, crashes_in_a_row=row, done_exit_code=container.exit_code or 1
            )
    return replace(
        seen,
        restarts=memory.restarts + 1,
        crashes_in_a_row=row,
        exit_counted=True,
        retry_at=ground.now + backoff_seconds(row - 1),
    )


def after_failure(memory: Memory, now: float, *, at_most_seconds: float = MAX_BACKOFF_SECONDS) -> Memory:
    """A try to make or start it failed: when to try again."""
    failures = memory.failures + 1
    return replace(memory, failures=failures, retry_at=now + min(backoff_seconds(failures), at_most_seconds))


def after_engine_restart(memory: Memory, lost_at: float, now: float) -> Memory:
    """The Engine turned out to have restarted after ``lost_at``: what failed is tried anew, an exit as it went down was no crash."""
    if memory.failures:
        memory = replace(memory, failures=0, retry_at=min(memory.retry_at, now))
    if not (memory.exit_counted and memory.exit_seen_at >= lost_at - ENGINE_STOP_SECONDS):
        return memory
    return replace(
        memory,
        restarts=max(0, memory.restarts - 1),
        crashes_in_a_row=max(0, memory.crashes_in_a_row - 1),
        exit_counted=False,
        retry_at=min(memory.retry_at, now),
        error="",
        evidence=None,
    )


def backoff_seconds(step: int) -> float:
    """0, 1, 2, 4 … 300."""
    return 0.0 if step <= 0 else min(2.0 ** min(step - 1, 10), MAX_BACKOFF_SECONDS)
