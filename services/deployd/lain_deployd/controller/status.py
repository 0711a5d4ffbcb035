"""``status/<app>/<proc>`` out of a finished draft: what people, and the console that drives an operation, are told.

Pure, and stable: nothing in it changes with time alone, so that a pass over a settled world writes nothing. What a status said before is
the memory of what must outlive a change of leader: when something last got better, whether a pod was ever ready, where the time went.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from lain_deployd.controller import budget
from lain_deployd.controller.actions import PutStatus
from lain_deployd.controller.draft import Pod, Proc
from lain_deployd.controller.view import AppView
from lain_shared import keys
from lain_shared.model.pod import LIMITS_REFUSED, Observed, PodState
from lain_shared.model.status import InstanceStatus, ProcPhase, ProcStatus

TELLING_INSTANCES = 3
"""So many instances of a proc are shown with their last output."""
_ORDER = {
    state: rank
    for rank, state in enumerate(
        (
            PodState.FAILED,
            PodState.BACKOFF,
            PodState.PENDING,
            PodState.PULLING,
            PodState.CREATED,
            PodState.RUNNING,
            PodState.EXITED,
            PodState.STOPPING,
        )
    )
}


def build(proc: Proc) -> ProcStatus | None:
    """The status of ``proc`` as the draft leaves it; None when there is nothing to say it of."""
    desired, before = proc.desired, proc.view.status
    lines = _brief(tuple(_line(proc, pod) for pod in proc.pods if pod.there))
    ready = sum(line.ready for line in lines)
    if desired is None:
        if before is None:
            return None
        return replace(
            before, phase=ProcPhase.ROLLING, wanted=0, updated=0, ready=ready, message="being removed", reasons={},
            instances=lines, progress_at=_progress_at(proc, before.desired_revision, lines), step=None,
        )  # fmt: skip
    updated = sum(_updated(proc, pod) for pod in proc.keepers.values()) + len(proc.ended_well)
    phase, message = _phase(proc, updated)
    unfinished = [pod for pod in proc.keepers.values() if not _updated(proc, pod)]
    step = budget.waits_for(proc, phase, unfinished)
    step_at, step_seconds = budget.spent(before, proc.view.desired_revision, step, proc.cluster.now)
    reasons: Counter[str] = Counter()
    for verdict in proc.no_node.values():
        for name, count in verdict.ruled_out.items():
            reasons[name] = max(reasons[name], count)
    return ProcStatus(
        app=desired.app,
        proc=desired.proc,
        desired_revision=proc.view.desired_revision,
        release=desired.release,
        phase=phase,
        wanted=len(proc.wanted),
        updated=updated,
        ready=ready,
        progress_at=_progress_at(proc, proc.view.desired_revision, lines),
        message=message,
        reasons=dict(sorted(reasons.items())),
        instances=lines,
        crashes_before_ready=max(
            (p.seen.restarts for p in proc.keepers.values() if p.seen is not None and not proc.was_ready(p)), default=0
        ),
        step=step,
        step_at=step_at,
        step_seconds=step_seconds,
    )


def freeze(view: AppView, now: float) -> Iterator[PutStatus]:
    """Say of every readable proc of an app that nothing is decided about it, and why."""
    message = f"frozen: {view.frozen}"
    for name, proc in sorted(view.procs.items()):
        if keys.STATUS.key(view.app, name) in view.unreadable:
            continue
        before, desired = proc.status, proc.desired
        if before is None and desired is not None:
            before = ProcStatus(
                app=view.app, proc=name, desired_revision=proc.desired_revision, release=desired.release,
                phase=ProcPhase.WAITING, wanted=desired.instances, updated=0, ready=0, progress_at=now,
            )  # fmt: skip
        if before is not None and before.message != message:
            yield PutStatus(replace(before, phase=ProcPhase.WAITING, message=message), proc.status_revision)


# --- one pod ----------------------------------------------------------------------------------------------------------


def _line(proc: Proc, pod: Pod) -> InstanceStatus:
    seen, order = pod.seen, pod.pod
    known = proc.told.get(pod.key)
    keeper = proc.keepers.get(pod.instance)
    wanted = pod.active and (pod is keeper or (keeper is None and pod.lost and proc.matches(pod)))
    state = PodState.PENDING if seen is None else seen.state
    stale = seen is not None and _refusal(seen) and not _answers(pod, seen)
    return InstanceStatus(
        instance=order.instance,
        generation=order.generation,
        release=order.release,
        node=pod.node,
        state=state if order.run else PodState.STOPPING,
        ready=pod.ready and order.run,
        address=seen.address if seen is not None else "",
        wanted=wanted,
        draining=order.draining,
        restarts=seen.restarts if seen is not None else 0,
        started_at=seen.started_at if seen is not None else None,
        ready_at=(seen.ready_at if seen is not None else None) or (known.ready_at if known is not None else None),
        container_id=seen.container_id if seen is not None else "",
        error=f"node {pod.node} is away" if pod.lost else seen.error if seen is not None and not stale else "",
        evidence=seen.evidence if seen is not None and not stale else None,
        progress=seen.progress if seen is not None else "",
    )


def _brief(lines: tuple[InstanceStatus, ...]) -> tuple[InstanceStatus, ...]:
    """The last output of a few that fail tells why they do; of the others it stands in ``observed``. A status stays a small record."""
    telling = [line for line in lines if line.evidence is not None and line.evidence.last_lines]
    telling.sort(key=lambda line: (line.ready, not line.wanted, line.instance, line.generation))
    silent = {(line.node, line.instance, line.generation) for line in telling[TELLING_INSTANCES:]}
    return tuple(
        replace(line, evidence=replace(line.evidence, last_lines=()))
        if line.evidence is not None and (line.node, line.instance, line.generation) in silent
        else line
        for line in lines
    )


def _updated(proc: Proc, pod: Pod) -> bool:
    """It is what is wanted, and was long enough; its limits are those asked for."""
    if proc.oneshot:
        return _ended_well(pod.seen)
    return pod.active and proc.done(pod) and _limits_in_force(pod)


def _limits_in_force(pod: Pod) -> bool:
    seen, template = pod.seen, pod.pod.template
    if seen is None or not seen.memory_bytes:
        return True  # its agent does not say
    return (seen.memory_bytes, seen.cpu) == (template.memory_bytes, template.cpu)


def _refusal(seen: Observed) -> bool:
    """Its agent says that the limits asked for cannot be put in force."""
    return seen.evidence is not None and seen.evidence.reason == LIMITS_REFUSED


def _answers(pod: Pod, seen: Observed) -> bool:
    """What was seen answers the order that stands, not one before it."""
    return pod.after == pod.before and seen.assign_revision >= pod.revision


def _ended_well(seen: Observed | None) -> bool:
    return seen is not None and seen.state is PodState.EXITED and seen.exit_code == 0


# --- all of it --------------------------------------------------------------------------------------------------------


def _phase(proc: Proc, updated: int) -> tuple[ProcPhase, str]:
    if proc.fault:
        return ProcPhase.WAITING, proc.fault
    if proc.oneshot:
        return _oneshot_phase(proc, updated)
    if proc.no_node or proc.held:
        return ProcPhase.WAITING, _waiting(proc)
    if (message := _paused(proc)) is not None:
        return ProcPhase.PAUSED, message
    for instance in proc.wanted:
        pod = proc.keepers.get(instance)
        if pod is not None and pod.seen is not None and _failing(proc, pod, pod.seen):
            return ProcPhase.FAILING, f"instance {instance}: {_trouble(pod.seen)}"
    if updated < len(proc.wanted):
        return ProcPhase.ROLLING, _rolling(proc)
    if _unapplied(proc):
        return ProcPhase.ROLLING, "waiting for the routers to apply the endpoints"
    return ProcPhase.STABLE, ""


def _oneshot_phase(proc: Proc, updated: int) -> tuple[ProcPhase, str]:
    for instance in proc.wanted:
        pod = proc.keepers.get(instance)
        if pod is None or pod.seen is None or _ended_well(pod.seen):
            continue
        if pod.seen.state is PodState.EXITED:
            return ProcPhase.FAILED, f"instance {instance}: {_trouble(pod.seen)}"
        if pod.seen.state is PodState.FAILED:
            return ProcPhase.FAILING, f"instance {instance}: {_trouble(pod.seen)}"
    if proc.held:
        return ProcPhase.FAILED, _waiting(proc)
    if proc.no_node:
        return ProcPhase.WAITING, _waiting(proc)
    if updated < len(proc.wanted):
        return ProcPhase.ROLLING, "running"
    return ProcPhase.DONE, ""


def _waiting(proc: Proc) -> str:
    texts = [f"instance {instance}: {verdict.sentence}" for instance, verdict in sorted(proc.no_node.items())]
    texts += [text for _, text in sorted(proc.held.items())]
    return texts[0] + (f" (and {len(texts) - 1} more)" if len(texts) > 1 else "")


def _paused(proc: Proc) -> str | None:
    """The routers that keep this rollout waiting for longer than ``drain_ack_seconds``."""
    patience, now = proc.cluster.limits.drain_ack_seconds, proc.cluster.now
    waited_for = dict(proc.behind)
    if _unapplied(proc):
        since = proc.memory.endpoints[1]
        proc.wake.append(since + patience)
        for name in proc.cluster.routers.behind(proc.view.endpoints_revision, proc.view.app):
            waited_for[name] = min(since, waited_for.get(name, since))
    names = sorted(name for name, since in waited_for.items() if now - since >= patience)
    if not names:
        return None
    which = f"router {names[0]} has" if len(names) == 1 else f"routers {', '.join(names)} have"
    return f"{which} not acknowledged the new endpoints; nothing is stopped until then"


def _unapplied(proc: Proc) -> bool:
    """Routers have still to apply these endpoints. Once all have, it is not asked again: a router that starts anew changes nothing."""
    view = proc.view
    if view.endpoints is None or proc.endpoints is None or not proc.routes:
        return False
    settled = view.status is not None and view.status.phase is ProcPhase.STABLE
    if proc.endpoints != view.endpoints:
        proc.waits.add("routers")
        return True
    if settled and view.status is not None and view.status.desired_revision == view.desired_revision:
        return False
    proc.waits.add("routers")
    if proc.cluster.routers.behind(view.endpoints_revision, view.app):
        if (at := proc.cluster.routers.forgets_at()) is not None:
            proc.wake.append(at)
        return True
    return False


def _failing(proc: Proc, pod: Pod, seen: Observed) -> bool:
    if proc.serves(pod) or pod.lost:
        return False
    return seen.state in (PodState.FAILED, PodState.BACKOFF, PodState.EXITED) or (
        seen.restarts > 0 and not proc.was_ready(pod)
    )


def _trouble(seen: Observed) -> str:
    if seen.error:
        return seen.error
    if seen.evidence is not None:
        return seen.evidence.text or seen.evidence.reason
    if seen.exit_code is not None:
        return f"exited with {seen.exit_code}" + (", out of memory" if seen.oom_killed else "")
    return f"is {seen.state.value}"


def _rolling(proc: Proc) -> str:
    for instance in proc.wanted:
        pod = proc.keepers.get(instance)
        if pod is None:
            continue
        if pod.seen is None:
            return f"instance {instance}: waiting for node {pod.node}"
        if not pod.ready:
            return f"instance {instance}: {pod.seen.progress or _unready(pod.seen)}"
        if not _updated(proc, pod):
            if proc.done(pod) and _refusal(pod.seen) and _answers(pod, pod.seen):
                return f"instance {instance}: {pod.seen.error}"
            what = "for its limits" if proc.done(pod) else "until it was ready for long enough"
            return f"instance {instance}: waiting {what}"
    return "waiting for the old pods to be gone"


def _unready(seen: Observed) -> str:
    if seen.state is PodState.RUNNING and seen.evidence is not None and seen.evidence.reason == "probe_failed":
        return seen.evidence.text  # it runs, and this is why that is not enough
    return seen.state.value


def _progress_at(proc: Proc, desired_revision: int, lines: tuple[InstanceStatus, ...]) -> float:
    """When something last got better. Crashes, restarts and readiness that comes and goes are no progress."""
    before, now = proc.view.status, proc.cluster.now
    if before is None or before.desired_revision != desired_revision:
        return now
    known = proc.told
    if {(line.node, line.instance, line.generation) for line in lines} != known.keys():
        return now
    for line in lines:
        old = known[line.node, line.instance, line.generation]
        if (
            (line.draining and not old.draining)
            or (line.ready_at is not None and old.ready_at is None)
            or (line.restarts == 0 and _ORDER[line.state] > _ORDER[old.state])
            or (line.state is PodState.PULLING and line.progress != old.progress)
        ):
            return now
    return before.progress_at
