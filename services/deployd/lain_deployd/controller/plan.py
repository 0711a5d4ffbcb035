"""The rollout of one app: from what is wanted and what is seen to the writes that are safe now. Pure; the next pass sees to the rest.

What must hold at any moment, whichever write of a pass came to be the last: no more pods than wanted plus ``max_surge``; a ready pod leaves
``ready`` only for a ready successor, or because it is not wanted; a pod that routers may know is told to stop only after each of them
has said that it sends it nothing new; what cannot be read, and the pods of nodes that are away, are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from lain_deployd.controller import pace, rollout, status
from lain_deployd.controller.actions import Action, DropEndpoints, DropStatus, PutEndpoints, PutStatus
from lain_deployd.controller.draft import READY, Proc
from lain_deployd.controller.view import AppView, Cluster, ProcMemory, earliest
from lain_shared.model.route import Route


@dataclass(frozen=True, slots=True)
class AppPlan:
    """The writes, in order; what to remember; when to look again though nothing changes, and what else to look again for."""

    actions: tuple[Action, ...] = ()
    memory: Mapping[str, ProcMemory] = field(default_factory=dict)
    wake_at: float | None = None
    waits: frozenset[str] = frozenset()
    """``routers``: their acknowledgement matters now. ``room``: an instance has no node."""


def plan_app(view: AppView, cluster: Cluster, memory: Mapping[str, ProcMemory]) -> AppPlan:
    """What to write for one app now. ``cluster.rooms`` are changed by what it takes."""
    if view.frozen:
        return AppPlan(tuple(status.freeze(view, cluster.now)), memory)
    procs = {
        name: Proc(each, cluster, _remember(memory.get(name, ProcMemory()), each.endpoints_revision, cluster.now))
        for name, each in sorted(view.procs.items())
    }
    for proc in procs.values():
        rollout.plan(proc)
    _give_routes(view, procs)
    changes = {name: tuple(_changes(proc)) for name, proc in procs.items()}
    remembered = {
        name: _memory(proc, cluster.now if changes[name] else proc.memory.told_at)
        for name, proc in procs.items()
        if not proc.finished
    }
    wake_at = earliest(at for proc in procs.values() for at in proc.wake if at > cluster.now)
    waits = frozenset(wait for proc in procs.values() for wait in proc.waits)
    changing = [proc for name, proc in procs.items() if changes[name]]
    if changing and all(pace.can_wait(proc, changes[proc.view.proc]) for proc in changing):
        due = min(proc.memory.told_at for proc in changing) + pace.GATHER_SECONDS
        if cluster.now < due <= cluster.now + pace.GATHER_SECONDS:
            unchanged = {name: _memory(proc, proc.memory.told_at) for name, proc in procs.items()}
            return AppPlan((), unchanged, earliest((due, wake_at)), waits)
    actions = sorted((action for each in changes.values() for action in each), key=_turn)
    return AppPlan(tuple(actions), remembered, wake_at, waits)


def _changes(proc: Proc) -> Iterator[Action]:
    yield from proc.actions()
    if proc.finished:
        if proc.view.status_revision:
            yield DropStatus(proc.view.app, proc.view.proc, proc.view.status_revision)
    elif (after := status.build(proc)) is not None and after != proc.view.status:
        yield PutStatus(after, proc.view.status_revision)


def _turn(action: Action) -> int:
    """Endpoints of all procs first: a route that moves between them does so in one transaction. Then orders, then what people are told."""
    match action:
        case PutEndpoints() | DropEndpoints():
            return 0
        case PutStatus() | DropStatus():
            return 2
        case _:
            return 1


def _remember(memory: ProcMemory, revision: int, now: float) -> ProcMemory:
    if memory.endpoints[0] == revision:
        return memory
    return replace(memory, endpoints=(revision, now))


def _memory(proc: Proc, told_at: float) -> ProcMemory:
    seen = frozenset(pod.key for pod in proc.pods if proc.was_seen(pod))  # also what is gone, until that is written
    return ProcMemory(proc.leaving, proc.memory.endpoints, seen, proc.unseen, proc.ahead, told_at)


def _give_routes(view: AppView, procs: Mapping[str, Proc]) -> None:
    """Who answers for which route: a new one is added when its proc has a ready new instance; one that moves changes owner then.

    Until then, and until the operation ends, it stays with the proc that has it, or had it in the parent release (``kept_routes``).
    """
    holders: dict[tuple[str, str], tuple[str, Route]] = {}
    wanted: dict[tuple[str, str], dict[str, Route]] = {}
    kept: dict[tuple[str, str], tuple[str, Route]] = {}
    for name, proc in procs.items():
        for route in proc.routes:
            holders[route.host, route.path] = name, route
        if proc.desired is None:
            continue
        for route in proc.desired.routes:
            wanted.setdefault((route.host, route.path), {})[name] = route
        for route in proc.desired.kept_routes:
            kept[route.host, route.path] = name, route
    given: dict[str, list[Route]] = {name: [] for name in procs}
    for key in holders.keys() | wanted.keys() | kept.keys():
        holder = holders.get(key)
        owner = _owner(view, procs, key, wanted.get(key, {}))
        if owner is not None and ((holder is not None and owner == holder[0]) or _fresh(procs[owner])):
            given[owner].append(wanted[key][owner])
        elif holder is not None and (owner is not None or key in kept or procs[holder[0]].desired is None):
            given[holder[0]].append(holder[1])
        elif holder is None and key in kept and READY in procs[kept[key][0]].places.values():
            given[kept[key][0]].append(kept[key][1])
    for name, proc in procs.items():
        proc.routes = tuple(sorted(given[name]))


def _owner(view: AppView, procs: Mapping[str, Proc], key: tuple[str, str], wanting: Mapping[str, Route]) -> str | None:
    """The proc a route shall lead to: of the newest release; within one release, as claimed."""
    claim = view.claims.get(key)

    def rank(name: str) -> tuple[int, bool, str]:
        desired = procs[name].desired
        return (desired.release if desired else 0, claim is not None and claim.proc == name, name)

    return max(wanting, key=rank, default=None)


def _fresh(proc: Proc) -> bool:
    """A pod that matches what is wanted serves."""
    return any(proc.places.get(pod.slot) == READY for pod in proc.keepers.values())
