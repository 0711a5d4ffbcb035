"""The mirrors' contents grouped by app, kept up to date by what differs from the last look: a pass costs what changed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from lain_deployd.controller.view import AppView, Placed, PodKey, ProcView
from lain_shared import keys
from lain_shared.model.node import Alive, Drain, Node, NodeState, Switch
from lain_shared.model.pod import Assignment, Desired, Observed, PodId, PodState, PodTemplate, ProcType
from lain_shared.model.route import Endpoints, RouteClaim, RouterMember, RouterState
from lain_shared.model.status import ProcStatus
from lain_shared.placement import Room
from lain_shared.records import Stored

T = TypeVar("T")
Family = Mapping[str, Stored[T]]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Every family the leader reads, key → record, and the newest store revision any of them was read at."""

    revision: int
    desired: Family[Desired] = field(default_factory=dict)
    nodes: Family[Node] = field(default_factory=dict)
    alive: Family[Alive] = field(default_factory=dict)
    nodes_state: Family[NodeState] = field(default_factory=dict)
    assign: Family[Assignment] = field(default_factory=dict)
    observed: Family[Observed] = field(default_factory=dict)
    endpoints: Family[Endpoints] = field(default_factory=dict)
    status: Family[ProcStatus] = field(default_factory=dict)
    router_members: Family[RouterMember] = field(default_factory=dict)
    routers: Family[RouterState] = field(default_factory=dict)
    switches: Family[Switch] = field(default_factory=dict)
    drains: Family[Drain] = field(default_factory=dict)
    routes: Family[RouteClaim] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Key → why, over all families."""


@dataclass(slots=True)
class Changed:
    """What differs from the last look."""

    apps: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    """Nodes whose presence, labels or drain changed."""
    routers: bool = False
    room: bool = False
    """Somewhere there may be more room, or other labels, than before."""
    switches: bool = False


@dataclass(slots=True)
class _Parts:
    """What is known of one proc, as it comes in."""

    desired: Stored[Desired] | None = None
    endpoints: Stored[Endpoints] | None = None
    status: Stored[ProcStatus] | None = None
    placed: dict[PodKey, Placed] = field(default_factory=dict)
    observed: dict[PodKey, Observed] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.desired or self.endpoints or self.status or self.placed or self.observed)


class World:
    """The index. ``update`` with the newest snapshots, then ask."""

    def __init__(self) -> None:
        self.last = Snapshots(0)
        self.rooms: dict[str, Room] = {}
        self.nodes: dict[str, Node] = {}
        self.present: frozenset[str] = frozenset()
        self.leaving: frozenset[str] = frozenset()
        self.volumes: dict[str, tuple[str, ...]] = {}
        self.apps_on: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Node → apps with assignments there."""
        self.faults: dict[str, dict[str, str]] = {}
        """App → key → why, for its records that cannot be read."""
        self._procs: defaultdict[str, defaultdict[str, _Parts]] = defaultdict(lambda: defaultdict(_Parts))
        self._claims: defaultdict[str, dict[tuple[str, str], RouteClaim]] = defaultdict(dict)
        self._counted: dict[PodKeyWithApp, PodTemplate] = {}
        self._counted_on: defaultdict[str, set[PodKeyWithApp]] = defaultdict(set)

    @property
    def apps(self) -> tuple[str, ...]:
        return tuple(sorted(self._procs.keys() | self.faults.keys()))

    def switch(self, name: str) -> Switch | None:
        stored = self.last.switches.get(keys.SWITCHES.key(name))
        return stored.value if stored is not None else None

    def app(self, app: str) -> AppView:
        procs = {
            name: ProcView(
                app,
                name,
                parts.desired.value if parts.desired else None,
                parts.desired.entry.mod_revision if parts.desired else 0,
                tuple(parts.placed.values()),
                dict(parts.observed),
                parts.endpoints.value if parts.endpoints else None,
                parts.endpoints.entry.mod_revision if parts.endpoints else 0,
                parts.status.value if parts.status else None,
                parts.status.entry.mod_revision if parts.status else 0,
            )
            for name, parts in self._procs.get(app, {}).items()
        }
        faults = self.faults.get(app, {})
        frozen = "; ".join(f"{key} cannot be read: {why}" for key, why in sorted(faults.items()))
        return AppView(app, procs, frozen, frozenset(faults), dict(self._claims.get(app, {})))

    def update(self, new: Snapshots) -> Changed:
        """Take in the newest snapshots; says what differs from the last ones."""
        old, changed = self.last, Changed()
        self._take_cluster(old, new, changed)
        self._take_procs(old, new, changed)
        if dict(old.unreadable) != dict(new.unreadable):
            self._take_faults(new, changed)
        self.last = new
        for app in changed.apps:
            self._sweep(app)
        return changed

    # --- nodes, routers, switches -------------------------------------------------------------------------------------

    def _take_cluster(self, old: Snapshots, new: Snapshots, changed: Changed) -> None:
        unreadable = [key for key in new.unreadable if key.startswith(keys.ALIVE.prefix)]
        there = (parts_of(keys.ALIVE, key) for key in (*new.alive, *unreadable))  # a bad record is presence
        present = frozenset(parts[0] for parts in there if parts is not None)
        leaving = frozenset(keys.DRAINS.parse(key)[0] for key in new.drains)
        stale = {keys.NODES.parse(key)[0] for key in differing(old.nodes, new.nodes)}
        changed.nodes |= stale | (present ^ self.present) | (leaving ^ self.leaving)
        states = {keys.NODES_STATE.parse(key)[0] for key in differing(old.nodes_state, new.nodes_state)}
        self.present, self.leaving = present, leaving
        self.nodes = {stored.value.name: stored.value for stored in new.nodes.values()}
        for node in changed.nodes | states:
            changed.room = True
            self._renew_room(node, new)
        if states:
            holders: defaultdict[str, list[str]] = defaultdict(list)
            for stored in new.nodes_state.values():
                for volume in stored.value.volumes:
                    holders[volume].append(stored.value.node)
            self.volumes = {volume: tuple(sorted(nodes)) for volume, nodes in holders.items()}
        changed.routers = differ(old.router_members, new.router_members) or differ(old.routers, new.routers)
        changed.switches = differ(old.switches, new.switches)

    def _renew_room(self, name: str, new: Snapshots) -> None:
        node = self.nodes.get(name)
        if node is None:
            self.rooms.pop(name, None)
            return
        state = new.nodes_state.get(keys.NODES_STATE.key(name))
        room = Room(
            name,
            node.labels,
            name not in self.present,
            node.cordoned,
            name in self.leaving,
            state.value if state else None,
        )
        for key in self._counted_on[name]:
            room.take(key[0], key[1], self._counted[key], new=False)
        self.rooms[name] = room

    # --- apps ---------------------------------------------------------------------------------------------------------

    def _take_procs(self, old: Snapshots, new: Snapshots, changed: Changed) -> None:
        for key in differing(old.desired, new.desired):
            app, proc = keys.DESIRED.parse(key)
            self._procs[app][proc].desired = new.desired.get(key)
            changed.apps.add(app)
        for key in differing(old.endpoints, new.endpoints):
            app, proc = keys.ENDPOINTS.parse(key)
            self._procs[app][proc].endpoints = new.endpoints.get(key)
            changed.apps.add(app)
        for key in differing(old.status, new.status):
            app, proc = keys.STATUS.parse(key)
            self._procs[app][proc].status = new.status.get(key)
            changed.apps.add(app)
        for key in differing(old.observed, new.observed):
            self._take_observed(key, new, changed)
        for key in differing(old.assign, new.assign):
            self._take_assignment(key, new, changed)
        for key in differing(old.routes, new.routes):
            host, path = keys.ROUTES.parse(key)
            for stored in (old.routes.get(key), new.routes.get(key)):
                if stored is not None:
                    self._claims[stored.value.app].pop((host, path), None)
                    changed.apps.add(stored.value.app)
            if (claim := new.routes.get(key)) is not None:
                self._claims[claim.value.app][host, path] = claim.value

    def _take_observed(self, key: str, new: Snapshots, changed: Changed) -> None:
        node, pod = _pod(keys.OBSERVED, key)
        if pod is None:
            return
        parts, stored = self._procs[pod.app][pod.proc], new.observed.get(key)
        pod_key = (node, pod.instance, pod.generation)
        if stored is None:
            parts.observed.pop(pod_key, None)
        else:
            parts.observed[pod_key] = stored.value
        changed.apps.add(pod.app)
        self._count(node, pod, parts, changed)

    def _take_assignment(self, key: str, new: Snapshots, changed: Changed) -> None:
        node, pod = _pod(keys.ASSIGN, key)
        if pod is None:
            return
        parts, stored = self._procs[pod.app][pod.proc], new.assign.get(key)
        pod_key = (node, pod.instance, pod.generation)
        there = pod_key in parts.placed
        if stored is None:
            parts.placed.pop(pod_key, None)
        else:
            parts.placed[pod_key] = Placed(node, stored.value, stored.entry.mod_revision)
        self.apps_on[node][pod.app] += (stored is not None) - there
        if self.apps_on[node][pod.app] <= 0:
            del self.apps_on[node][pod.app]
        changed.apps.add(pod.app)
        self._count(node, pod, parts, changed)

    def _count(self, node: str, pod: PodId, parts: _Parts, changed: Changed) -> None:
        """Keep the node's room: what is assigned takes it until it is gone, a oneshot until it has ended."""
        pod_key = (node, pod.instance, pod.generation)
        key = (pod.app, pod.proc, *pod_key)
        placed, seen = parts.placed.get(pod_key), parts.observed.get(pod_key)
        ended = (
            placed is not None
            and placed.pod.type is ProcType.ONESHOT
            and seen is not None
            and seen.state is PodState.EXITED
        )
        template = placed.pod.template if placed is not None and not ended else None
        counted, room = self._counted.get(key), self.rooms.get(node)
        if template == counted:
            return
        if counted is not None:
            changed.room = True
            del self._counted[key]
            self._counted_on[node].discard(key)
            if room is not None:
                room.give_back(pod.app, pod.proc, counted)
        if template is not None:
            self._counted[key] = template
            self._counted_on[node].add(key)
            if room is not None:
                room.take(pod.app, pod.proc, template, new=False)

    def _take_faults(self, new: Snapshots, changed: Changed) -> None:
        faults: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for key, why in new.unreadable.items():
            if (app := _app_of(key)) is not None:
                faults[app][key] = why
        changed.apps |= {app for app in faults.keys() | self.faults.keys() if faults.get(app) != self.faults.get(app)}
        self.faults = dict(faults)

    def _sweep(self, app: str) -> None:
        procs = self._procs[app]
        for name in [name for name, parts in procs.items() if parts.empty]:
            del procs[name]
        if not procs:
            del self._procs[app]


PodKeyWithApp = tuple[str, str, str, int, int]
"""App, proc, node, instance, generation."""


def differing(old: Mapping[str, Stored[T]], new: Mapping[str, Stored[T]]) -> Iterator[str]:
    """The keys that came, changed or went."""
    kept = 0
    for key, stored in new.items():
        known = old.get(key)
        if known is None:
            yield key
            continue
        kept += 1
        if known is not stored and known.entry != stored.entry:
            yield key
    if kept != len(old):
        yield from [key for key in old if key not in new]


def differ(old: Mapping[str, Stored[T]], new: Mapping[str, Stored[T]]) -> bool:
    return any(True for _ in differing(old, new))


def parts_of(family: keys.Family, key: str) -> tuple[str, ...] | None:
    """The parts of a key; None for one that is not of this family's shape: nobody's, reported as unreadable, and left alone."""
    try:
        return family.parse(key)
    except ValueError:
        return None


def _pod(family: keys.Family, key: str) -> tuple[str, PodId | None]:
    parts = parts_of(family, key)
    if parts is None:
        return "", None
    node, text = parts
    try:
        return node, PodId.parse(text)
    except ValueError:
        return node, None  # nobody's pod: not ours to touch


def _app_of(key: str) -> str | None:
    family = keys.family_of(key)
    if family in (keys.DESIRED, keys.ENDPOINTS, keys.STATUS):
        parts = parts_of(family, key)
        return parts[0] if parts is not None else None
    if family in (keys.ASSIGN, keys.OBSERVED):
        _, pod = _pod(family, key)
        return pod.app if pod is not None else None
    return None
