"""The rollout of one app: from what is wanted and what is seen to the writes that are safe now. Pure; the next pass sees to the rest.

What must hold at any moment, whichever write of a pass came to be the last: no more pods than wanted plus ``max_surge``; a ready pod leaves
``ready`` only for a ready successor, or because it is not wanted; a pod that routers may know is told to stop only after each of them
has said that it sends it nothing new; what cannot be read, and the pods of nodes that are away, are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lain_deployd.controller import rollout, status
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
    routed: list[Action] = []
    ordered: list[Action] = []
    statuses: list[Action] = []
    for proc in procs.values():
        for action in proc.actions():
            (routed if isinstance(action, PutEndpoints | DropEndpoints) else ordered).append(action)
        if proc.finished:
            if proc.view.status_revision:
                statuses.append(DropStatus(proc.view.app, proc.view.proc, proc.view.status_revision))
        elif (after := status.build(proc)) is not None and after != proc.view.status:
            statuses.append(PutStatus(after, proc.view.status_revision))
    return AppPlan(
        (*routed, *ordered, *statuses),  # a route that moves between procs does so in one transaction, the first
        {name: _memory(proc) for name, proc in procs.items() if not proc.finished},
        earliest(at for proc in procs.values() for at in proc.wake if at > cluster.now),
        frozenset(wait for proc in procs.values() for wait in proc.waits),
    )


def _remember(memory: ProcMemory, revision: int, now: float) -> ProcMemory:
    if memory.endpoints[0] == revision:
        return memory
    return replace(memory, endpoints=(revision, now))


def _memory(proc: Proc) -> ProcMemory:
    seen = frozenset(pod.key for pod in proc.pods if pod.there and proc.was_seen(pod))
    return ProcMemory(proc.leaving, proc.memory.endpoints, seen, proc.unseen, proc.ahead)


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
