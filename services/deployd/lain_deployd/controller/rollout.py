"""The steps of a plan for one proc, in order: forget what is gone, choose who stays, route, retire, create."""

from __future__ import annotations

from lain_deployd.controller.draft import DRAINING, READY, SUSPECT, Pod, Proc, has_volume
from lain_deployd.controller.view import Leaving
from lain_shared.model.pod import Assignment, PodState, ProcType, Strategy, same_but_resources
from lain_shared.model.route import Endpoint
from lain_shared.model.status import ProcPhase
from lain_shared.placement import Ask, BadFilter, Verdict, place

DEFAULT_DRAIN_SECONDS = 10.0


def plan(proc: Proc) -> None:
    """Decide everything about ``proc``; the draft then holds it."""
    _forget_gone(proc)
    if not proc.cluster.maintenance:
        _restore_deleted(proc)
        _resize(proc)
    _choose_keepers(proc)
    _route(proc)
    if not proc.cluster.maintenance:
        _retire(proc)
        try:
            _create(proc)
        except BadFilter as error:
            proc.fault = f"{error.message}: {error.why}"
    _route_lost(proc)
    if proc.desired is None:
        proc.finished = not any(pod.there and (pod.runs or not pod.lost) for pod in proc.pods)


# --- what is gone -----------------------------------------------------------------------------------------------------


def _forget_gone(proc: Proc) -> None:
    """A pod that was told to stop and that its node no longer sees is gone; of a lost node, only its address is forgotten."""
    for pod in proc.pods:
        if pod.runs:
            continue
        gone = _is_gone(proc, pod)
        if gone:
            if (room := proc.cluster.rooms.changing(pod.node)) is not None:
                room.give_back(proc.view.app, proc.view.proc, pod.pod.template)
            pod.after, pod.why = None, "gone"
        if gone or pod.lost:
            proc.places.pop(pod.slot, None)
            proc.entries.pop(pod.slot, None)
    known = {pod.slot for pod in proc.pods if pod.there}
    for slot in set(proc.places) - known:  # its assignment was removed by hand, or with its node
        del proc.places[slot], proc.entries[slot]


def _is_gone(proc: Proc, pod: Pod) -> bool:
    """Its node spoke of it and does so no more. A node that never spoke of it may still be about to start it: it is given time to."""
    if pod.seen is not None:
        return False
    if proc.was_seen(pod):
        return True
    if pod.lost or pod.node not in proc.cluster.present:
        return False
    now, since = proc.cluster.now, proc.memory.unseen.get(pod.key, proc.cluster.now)
    due = since + proc.cluster.limits.unseen_seconds
    proc.unseen[pod.key] = since
    if now >= due:
        return True
    proc.wake.append(due)
    return False


def _restore_deleted(proc: Proc) -> None:
    """An assignment that somebody deleted while its container runs is written again: same pod, nothing is restarted."""
    desired, status = proc.desired, proc.view.status
    if desired is None or status is None:
        return
    known = {pod.key for pod in proc.pods}
    for line in status.instances:
        key = (line.node, line.instance, line.generation)
        seen = proc.view.observed.get(key)
        if (
            seen is None
            or key in known
            or line.node not in proc.cluster.present
            or line.instance not in proc.wanted
            or not line.wanted
            or line.draining
            or line.release != desired.release
            or seen.state is PodState.STOPPING
            or any(pod.instance == line.instance and pod.runs for pod in proc.pods)
        ):
            continue
        order = _order(proc, line.instance, line.generation)
        proc.add(Pod(line.node, None, 0, order, seen, lost=False, why="its assignment was deleted"))
        if (room := proc.cluster.rooms.changing(line.node)) is not None:
            room.take(desired.app, desired.proc, desired.template, new=False)


# --- who stays --------------------------------------------------------------------------------------------------------


def _resize(proc: Proc) -> None:
    """Limits are changed in place where the node has the room; elsewhere the rollout does it."""
    desired = proc.desired
    if desired is None or proc.oneshot:
        return
    for pod in proc.pods:
        if not pod.active or pod.lost or pod.instance not in proc.wanted or pod.pod.template == desired.template:
            continue
        current = pod.pod.restart >= desired.restarts.get(pod.instance, 0) and not proc.must_move(pod)
        if not current or not same_but_resources(pod.pod.template, desired.template):
            continue
        room = proc.cluster.rooms.changing(pod.node)
        if room is None:
            continue
        old = pod.pod.template
        room.give_back(desired.app, desired.proc, old)
        less = desired.template.request_bytes <= old.request_bytes and desired.template.cpu <= old.cpu
        if less or room.fits(desired.template):
            room.take(desired.app, desired.proc, desired.template, new=False)
            pod.change("limits changed in place", template=desired.template)
        else:
            room.take(desired.app, desired.proc, old, new=False)


def _choose_keepers(proc: Proc) -> None:
    """For each wanted instance the one pod that stays: ready before not, routed before not, newer before older."""
    desired = proc.desired
    if desired is None:
        return
    settling = proc.cluster.settling
    for instance in proc.wanted:
        if proc.oneshot:
            candidates = [pod for pod in proc.of(instance) if pod.runs and pod.pod.release == desired.release]
        else:
            candidates = [pod for pod in proc.of(instance) if pod.runs and not pod.lost and proc.matches(pod)]
        if not candidates:
            continue
        if len(candidates) > 1:
            proc.wake.extend(settling[pod.node] for pod in candidates if pod.node in settling)

        def rank(pod: Pod) -> tuple[bool, bool, bool, int]:
            trusted = pod.ready and pod.node not in settling
            return trusted, proc.places.get(pod.slot) == READY, pod.active, pod.pod.generation

        keeper = max(candidates, key=rank)
        proc.keepers[instance] = keeper
        if proc.cluster.maintenance or proc.oneshot or keeper.lost:
            continue
        if not keeper.active:
            keeper.change("wanted again", draining=False)
        keeper.change(
            "of this release now",
            release=desired.release,
            type=desired.type,
            singleton=desired.singleton,
            stateful=desired.stateful,
            recreate=desired.strategy is Strategy.RECREATE,
        )


# --- routing ----------------------------------------------------------------------------------------------------------


def _route(proc: Proc) -> None:
    """Ready pods enter ``ready``; what is no longer ready waits in ``draining``, unless nothing else would be left."""
    early: list[Pod] = []
    fallback: list[Pod] = []
    for pod in proc.pods:
        place = proc.places.get(pod.slot)
        if not pod.there or pod.lost:
            continue
        if not pod.active:
            if place in (READY, SUSPECT):
                proc.places[pod.slot] = DRAINING
        elif pod.seen is None:
            continue  # its agent will say
        elif not pod.ready:
            if place in (READY, SUSPECT):
                proc.places[pod.slot] = DRAINING
                if pod.seen.state is PodState.RUNNING and place == READY:
                    fallback.append(pod)
        elif proc.listens and pod.seen.address:
            if place == SUSPECT and (settles_at := proc.cluster.settling.get(pod.node)) is not None:
                proc.wake.append(settles_at)  # what stands there may be from before it was away
            elif place in (READY, SUSPECT) or (_may_enter(proc, pod) and proc.settled(pod)):
                _enter(proc, pod)
            elif _may_enter(proc, pod):
                early.append(pod)
    if READY in proc.places.values():
        return
    for pod in early:  # better early than nobody
        _enter(proc, pod)
    if READY not in proc.places.values():
        for pod in fallback:  # routers try what looks bad rather than nothing
            proc.places[pod.slot] = READY


def _may_enter(proc: Proc, pod: Pod) -> bool:
    if proc.desired is None or pod.instance not in proc.wanted:
        return False
    if proc.keepers.get(pod.instance) is pod:
        return True
    return not any(proc.places.get(other.slot) == READY for other in proc.of(pod.instance))


def _enter(proc: Proc, pod: Pod) -> None:
    if pod.seen is not None:
        proc.places[pod.slot] = READY
        proc.entries[pod.slot] = Endpoint(pod.pod.instance, pod.pod.generation, pod.seen.address)


def _route_lost(proc: Proc) -> None:
    """Pods of a lost node are used after all others until their instance is served again; nothing of them is removed."""
    for pod in proc.pods:
        if not pod.lost or not pod.there or pod.slot not in proc.places:
            continue
        keeper = proc.keepers.get(pod.instance)
        replaced = keeper is not None and keeper is not pod and proc.done(keeper)
        wanted = pod.active and pod.instance in proc.wanted
        proc.places[pod.slot] = SUSPECT if wanted and not replaced else DRAINING


# --- retiring ---------------------------------------------------------------------------------------------------------


def _retire(proc: Proc) -> None:
    for pod in reversed(proc.pods):  # the highest numbers go first
        if pod.runs and not pod.active:
            _leave(proc, pod, "draining")
    for pod in reversed(proc.pods):
        if pod.active and pod.instance not in proc.wanted:
            stopped = proc.desired is not None and pod.instance in proc.desired.stopped
            _leave(proc, pod, "stopped" if stopped else "not wanted")
    for instance in proc.wanted:
        keeper = proc.keepers.get(instance)
        others = [pod for pod in proc.of(instance) if pod.active and pod is not keeper]
        if proc.oneshot:
            for pod in others:
                _leave(proc, pod, "of another release")
            continue
        others = [pod for pod in others if not pod.lost]
        if keeper is not None and (proc.recreates or proc.done(keeper)):
            for pod in others:
                _leave(proc, pod, "replaced")
        elif not proc.recreates:
            _drop_superseded(proc, others)


def _drop_superseded(proc: Proc, others: list[Pod]) -> None:
    """Of several predecessors the best one is kept until the wanted pod serves; one that was never ready is no use."""
    served = [pod for pod in others if proc.was_ready(pod)]
    best = max(
        served, key=lambda pod: (pod.ready, proc.places.get(pod.slot) == READY, pod.pod.generation), default=None
    )
    for pod in others:
        if pod is not best:
            _leave(proc, pod, "superseded")


def _leave(proc: Proc, pod: Pod, why: str) -> None:
    """One step of the way out: draining, then, once no router sends it anything, told to stop."""
    pod.change(why, draining=True)
    if proc.needs_ack and pod.slot not in proc.places and proc.was_ready(pod) and pod.seen and pod.seen.address:
        _enter(proc, pod)  # its endpoints were deleted by hand: routers may still know it
    if pod.slot in proc.places:
        proc.places[pod.slot] = DRAINING
        if proc.needs_ack and not _released(proc, pod):
            return
    pod.change(why, run=False)


def _released(proc: Proc, pod: Pod) -> bool:
    """Every router has applied that it drains, and it is idle or was given ``drain_seconds``."""
    if pod.slot not in proc.was_draining:
        return False
    cluster, limits = proc.cluster, proc.cluster.limits
    revision, now = proc.view.endpoints_revision, cluster.now
    clock = proc.memory.leaving.get(pod.key) or Leaving(revision, now)
    behind = cluster.routers.behind(clock.revision, proc.view.app)
    acked_at = None if behind else clock.acked_at if clock.acked_at is not None else now
    proc.leaving[pod.key] = Leaving(clock.revision, clock.since, acked_at)
    proc.waits.add("routers")
    if acked_at is None:
        for name in behind:
            proc.behind[name] = min(clock.since, proc.behind.get(name, clock.since))
        proc.wake.append(clock.since + limits.drain_ack_seconds)
        if (at := cluster.routers.forgets_at()) is not None:
            proc.wake.append(at)
        return False
    drain_seconds = DEFAULT_DRAIN_SECONDS if proc.desired is None else proc.desired.drain_seconds
    if cluster.routers.busy(proc.entries[pod.slot].address) and now < acked_at + drain_seconds:
        proc.wake.append(acked_at + drain_seconds)
        return False
    return True


# --- creating ---------------------------------------------------------------------------------------------------------


def _create(proc: Proc) -> None:
    desired = proc.desired
    if desired is None:
        return
    missing = [instance for instance in proc.wanted if instance not in proc.keepers]
    if proc.oneshot:
        _create_oneshots(proc, missing)
        return
    missing = [instance for instance in missing if _may_move(proc, instance)]
    if proc.recreates:
        _recreate(proc, missing)
        return
    room = len(proc.wanted) + max(1, desired.max_surge) - _running(proc)
    bare = [n for n in missing if not any(pod.active and not pod.lost for pod in proc.of(n))]
    for instance in (*bare, *(n for n in missing if n not in bare)):
        if room <= 0:
            break
        if _start(proc, instance):
            room -= 1


def _may_move(proc: Proc, instance: int) -> bool:
    """Whether a new pod may stand for an instance of which one is on a lost node."""
    singleton = proc.desired is not None and proc.desired.singleton
    lost = [pod for pod in proc.of(instance) if pod.lost and (pod.runs or singleton)]
    if not lost:
        return True
    nodes = ", ".join(sorted({pod.node for pod in lost}))
    if singleton:
        proc.held[instance] = (
            f"instance {instance} may still run on {nodes}, which is away: there must never be two of it"
        )
    elif proc.stays:
        proc.held[instance] = f"instance {instance} stays on {nodes}, which is away: its state is there"
    elif proc.cluster.breaker:
        proc.held[instance] = f"instance {instance} was on {nodes}, which is away: {proc.cluster.breaker}"
    elif proc.cluster.guard_asleep:
        proc.held[instance] = f"instance {instance} was on {nodes}, which is away: the guard is asleep"
    return instance not in proc.held


def _recreate(proc: Proc, missing: list[int]) -> None:
    """The old pod is gone before the new one starts; no more instances at a time than ``max_surge`` are without one."""
    desired = proc.desired
    if desired is None:
        return
    room = len(proc.wanted) - _running(proc)
    for instance in missing:
        alone = not any(not pod.lost for pod in proc.of(instance)) and not proc.leftover(instance)
        if room > 0 and alone and _start(proc, instance):
            room -= 1
    moving = sum(1 for instance in proc.wanted if _in_transition(proc, instance))
    for instance in missing:
        pods = [pod for pod in proc.of(instance) if not pod.lost]
        if instance in proc.keepers or not any(pod.active for pod in pods) or moving >= max(1, desired.max_surge):
            continue
        if _would_fit(proc, instance, pods):
            moving += 1
            for pod in pods:
                if pod.runs:
                    _leave(proc, pod, "replaced")


def _running(proc: Proc) -> int:
    """Pods not told to stop, on nodes that are there."""
    return sum(pod.runs and not pod.lost for pod in proc.pods)


def _in_transition(proc: Proc, instance: int) -> bool:
    keeper = proc.keepers.get(instance)
    if keeper is not None:
        return not proc.done(keeper)
    pods = [pod for pod in proc.of(instance) if not pod.lost]
    return bool(pods) and not any(pod.active for pod in pods)


def _would_fit(proc: Proc, instance: int, pods: list[Pod]) -> bool:
    """Whether its successor will have a node once these are gone: nothing is stopped for a pod that cannot start."""
    rooms = proc.cluster.rooms
    for pod in pods:
        if (room := rooms.changing(pod.node)) is not None:
            room.give_back(proc.view.app, proc.view.proc, pod.pod.template)
    verdict = _find(proc, instance)
    for pod in pods:
        if (room := rooms.changing(pod.node)) is not None:
            room.take(proc.view.app, proc.view.proc, pod.pod.template, new=False)
    if verdict.node is None:
        proc.no_node[instance] = verdict
        proc.waits.add("room")
    return verdict.node is not None


def _create_oneshots(proc: Proc, missing: list[int]) -> None:
    """Exactly one pod an instance and release: what was started once is never started again."""
    desired, status = proc.desired, proc.view.status
    if desired is None:
        return
    begun: set[int] = set()
    if status is not None and status.release == desired.release:
        begun = {line.instance for line in status.instances if line.release == desired.release}
        if status.phase is ProcPhase.DONE:
            proc.ended_well.update(missing)
        elif status.phase is ProcPhase.FAILED:
            begun.update(missing)
    for instance in missing:
        if instance in proc.ended_well:
            continue
        if instance in begun:
            proc.held[instance] = f"instance {instance} was started for this release before; it is not run twice"
        elif not any(not _ended(pod) for pod in proc.of(instance)) and not proc.leftover(instance):
            _start(proc, instance)


def _ended(pod: Pod) -> bool:
    return pod.lost and pod.seen is not None and pod.seen.state is PodState.EXITED


def _start(proc: Proc, instance: int) -> bool:
    """Assign a new pod, if a node fits; else remember why none does."""
    desired = proc.desired
    if desired is None:
        return False
    verdict = _find(proc, instance)
    if verdict.node is None:
        proc.no_node[instance] = verdict
        proc.waits.add("room")
        return False
    if (room := proc.cluster.rooms.changing(verdict.node)) is not None:
        room.take(desired.app, desired.proc, desired.template)
    order = _order(proc, instance, proc.cluster.revision)
    pod = Pod(verdict.node, None, 0, order, None, lost=False, why="wanted")
    proc.add(pod)
    proc.keepers[instance] = pod
    return True


def _find(proc: Proc, instance: int) -> Verdict:
    desired = proc.desired
    if desired is None:
        raise ValueError(f"{proc.view.app}.{proc.view.proc} is not wanted")
    only = _home(proc, instance)
    why = "its volume is there" if has_volume(desired.template) else "its state is there"
    return place(Ask(desired.app, desired.proc, desired.template, desired.filters, only, why), proc.cluster.rooms)


def _home(proc: Proc, instance: int) -> str | None:
    """The node an instance with state is bound to: where its last pod is, else where its volume is."""
    if not proc.stays:
        return None
    pods = [pod for pod in proc.pods if pod.instance == instance]
    if pods:
        return max(pods, key=lambda pod: pod.pod.generation).node
    nodes = proc.cluster.volumes.get(f"{proc.view.app}.{proc.view.proc}-{instance}", ())
    registered = [node for node in nodes if node in proc.cluster.rooms]
    return min(registered, key=lambda node: (proc.cluster.rooms[node].away, node), default=None)


def _order(proc: Proc, instance: int, generation: int) -> Assignment:
    desired = proc.desired
    if desired is None:
        raise ValueError(f"{proc.view.app}.{proc.view.proc} is not wanted")
    restart = 0 if desired.type is ProcType.ONESHOT else desired.restarts.get(instance, 0)
    return Assignment(
        app=desired.app,
        proc=desired.proc,
        instance=instance,
        generation=generation,
        type=desired.type,
        release=desired.release,
        template=desired.template,
        restart=restart,
        singleton=desired.singleton,
        stateful=desired.stateful,
        recreate=desired.strategy is Strategy.RECREATE,
    )
