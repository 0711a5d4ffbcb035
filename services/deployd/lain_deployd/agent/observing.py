"""What a pod's order, container and memory say together: ``observed``, pure."""

from __future__ import annotations

from lain_deployd.agent.engine import Container, ContainerState
from lain_deployd.agent.limits import level_of
from lain_deployd.agent.plan import ALIVE, ENDED
from lain_deployd.agent.pods import Ground, Memory, View
from lain_shared.model.pod import LIMITS_REFUSED, Evidence, Observed, PodState

NO_ADDRESS = "no address is free in this node's block"


def observe(view: View, ground: Ground) -> Observed | None:
    """What is to stand in ``observed`` for this pod; None: nothing of it is here, nor should be."""
    order, container, memory = view.order, view.container, view.memory or Memory()
    stopping = order is None or not order.assignment.run
    if stopping and container is None and view.memory is None:
        return None
    state = _state(container, memory, view.busy, stopping=stopping)
    health = view.health_now if container is not None and container.state in ALIVE else None
    ready = health is not None and health.ready and not stopping
    pod = view.pod
    refusal = "" if order is None or memory.refused_by != order.revision else memory.refused_why
    return Observed(
        app=pod.app,
        proc=pod.proc,
        instance=pod.instance,
        generation=pod.generation,
        state=state,
        assign_revision=0 if order is None else order.revision,
        ready=ready,
        ready_at=health.ready_at if health is not None and ready else None,
        address=memory.address if container is not None else "",
        container_id="" if container is None else container.id,
        started_at=None if container is None else container.started_at,
        restarts=memory.restarts,
        retry_at=memory.retry_at if state in (PodState.BACKOFF, PodState.FAILED) else None,
        exit_code=_exit_code(container, memory),
        oom_killed=container is not None and container.oom_killed,
        error=_error(container, memory, ground, stopping=stopping) or refusal,
        evidence=Evidence(memory.refused_at, LIMITS_REFUSED, refusal) if refusal else memory.evidence,
        cpu=0 if container is None else level_of(container.limits, ground.cpus),
        memory_bytes=0 if container is None else container.limits.memory_bytes,
        progress=view.busy or (f"waiting until {view.in_the_way} is gone" if view.in_the_way else ""),
    )


def _state(container: Container | None, memory: Memory, busy: str, *, stopping: bool) -> PodState:
    if stopping:
        return PodState.STOPPING
    if memory.done_exit_code is not None:
        return PodState.EXITED
    if container is not None and container.state in ALIVE:
        return PodState.RUNNING
    if container is not None and container.state in ENDED:
        return PodState.BACKOFF
    if memory.failures:
        return PodState.FAILED
    if container is None:
        return PodState.PULLING if busy.startswith("pulling") else PodState.PENDING
    return PodState.STOPPING if container.state is ContainerState.REMOVING else PodState.CREATED


def _exit_code(container: Container | None, memory: Memory) -> int | None:
    if memory.done_exit_code is not None:
        return memory.done_exit_code
    return None if container is None else container.exit_code


def _error(container: Container | None, memory: Memory, ground: Ground, *, stopping: bool) -> str:
    if memory.error or stopping:
        return memory.error
    return NO_ADDRESS if container is None and not (memory.address or ground.address) else ""
