"""What one pass looks at: the world as nouns, with the revisions they were read at. No client, no clock: ``now`` is part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lain_shared.model.node import Node
from lain_shared.model.pod import Assignment, Desired, Observed
from lain_shared.model.route import Endpoints, RouteClaim, RouterState
from lain_shared.model.status import ProcStatus
from lain_shared.placement import Room

ProcKey = tuple[str, str]
"""App and proc."""
PodKey = tuple[str, int, int]
"""Node, instance, generation: one pod of a proc."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An assignment: what the leader ordered of a node, and the revision at which it did."""

    node: str
    pod: Assignment
    revision: int

    @property
    def key(self) -> PodKey:
        return self.node, self.pod.instance, self.pod.generation


@dataclass(frozen=True, slots=True)
class ProcView:
    """Everything known of one proc. A revision of 0 means that there is no such key."""

    app: str
    proc: str
    desired: Desired | None = None
    desired_revision: int = 0
    placed: tuple[Placed, ...] = ()
    observed: Mapping[PodKey, Observed] = field(default_factory=dict)
    endpoints: Endpoints | None = None
    endpoints_revision: int = 0
    status: ProcStatus | None = None
    status_revision: int = 0


@dataclass(frozen=True, slots=True)
class AppView:
    """All procs of an app: routes move between them, and a record that cannot be read freezes them all (``frozen``: why)."""

    app: str
    procs: Mapping[str, ProcView]
    frozen: str = ""
    unreadable: frozenset[str] = frozenset()
    """The keys that cannot be read."""
    claims: Mapping[tuple[str, str], RouteClaim] = field(default_factory=dict)
    """(host, path) → the claim, of routes this app holds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The controller's own patience, in seconds (design, sections 5 and 6)."""

    drain_ack_seconds: float = 10.0
    router_forget_seconds: float = 30.0
    node_lease_seconds: float = 5.0
    breaker_window_seconds: float = 60.0
    replan_seconds: float = 30.0
    """Within this time every app is planned anew, whatever changed."""
    heal_settle_seconds: float = 2.0
    """How long a returned node must be back before its word counts against a replacement's."""
    unseen_seconds: float = 10.0
    """A node that is there and never spoke of a pod for so long, though it was told to stop it, does not have it."""


@dataclass(frozen=True, slots=True)
class Routers:
    """The routers that must have applied a change before a pod may stop: all members, whether their watcher is alive or not."""

    now: float
    states: Mapping[str, RouterState | None] = field(default_factory=dict)
    away_since: Mapping[str, float] = field(default_factory=dict)
    forget_seconds: float = 30.0

    def behind(self, revision: int, app: str) -> tuple[str, ...]:
        """The routers that have not applied the endpoints of ``app`` as of ``revision`` and are still waited for."""
        return tuple(name for name in sorted(self.states) if not self._applied(name, revision, app))

    def busy(self, address: str) -> bool:
        """Some router still has requests or WebSockets in flight to this draining address."""
        return any(state is not None and address in state.busy for state in self.states.values())

    def forgets_at(self) -> float | None:
        """When the next router that is away will no longer be waited for."""
        times = [self.away_since.get(name, self.now) for name, state in self.states.items() if state is None]
        coming = [at + self.forget_seconds for at in times if at + self.forget_seconds > self.now]
        return min(coming, default=None)

    def _applied(self, name: str, revision: int, app: str) -> bool:
        state = self.states[name]
        if state is None:
            return self.now - self.away_since.get(name, self.now) >= self.forget_seconds
        # also of one without nginx: it routes nothing, and what it will start from is what its watcher says it has applied
        return state.applied_revision >= revision and app not in state.not_applied


class Rooms(dict[str, Room]):
    """Node → room; a room is copied before a plan changes it, so that what it was made from stays as it is."""

    def __init__(self, base: Mapping[str, Room]) -> None:
        super().__init__(base)
        self._own: set[str] = set()

    def changing(self, node: str) -> Room | None:
        """The plan's own copy of a room, or None for a node that is not registered."""
        if node not in self:
            return None
        if node not in self._own:
            self._own.add(node)
            self[node] = self[node].copy()
        return self[node]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What all apps share in one pass."""

    now: float
    revision: int
    """The store revision this pass read: the generation of the pods it creates."""
    rooms: Rooms
    nodes: Mapping[str, Node] = field(default_factory=dict)
    present: frozenset[str] = frozenset()
    """Nodes whose agent is there, or may be: while no node counts as lost, those that are away are among them."""
    lost: frozenset[str] = frozenset()
    """Nodes whose presence is gone, and that count as lost."""
    settling: Mapping[str, float] = field(default_factory=dict)
    """Nodes that came back a moment ago, or are away and do not yet count as lost → when their word counts again."""
    leaving: frozenset[str] = frozenset()
    """Nodes being drained."""
    breaker: str = ""
    """Why nothing is moved away from lost nodes; "" when it may be."""
    room_wanted: bool = False
    """Some app has an instance that no node has room for."""
    maintenance: bool = False
    guard_asleep: bool = False
    routers: Routers = field(default_factory=lambda: Routers(0.0))
    volumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """``<app>.<proc>-<instance>`` → nodes whose disk has its volume."""
    limits: Limits = field(default_factory=Limits)


# --- what a leader remembers between passes: safe to lose, a new leader begins the waits afresh -----------------------


@dataclass(frozen=True, slots=True)
class Leaving:
    """A pod that waits in ``draining`` for the routers."""

    revision: int
    """Routers that have applied this revision send it nothing new."""
    since: float
    acked_at: float | None = None


@dataclass(frozen=True, slots=True)
class ProcMemory:
    leaving: Mapping[PodKey, Leaving] = field(default_factory=dict)
    endpoints: tuple[int, float] = (0, 0.0)
    """The revision of ``endpoints`` and when this leader first saw it."""
    seen: frozenset[PodKey] = frozenset()
    """Pods of which their node has spoken."""
    unseen: Mapping[PodKey, float] = field(default_factory=dict)
    """Pods told to stop of which their node, though it is there, never spoke → since when."""
    ahead: Mapping[PodKey, float] = field(default_factory=dict)
    """Pods that are ready since a time that is still to come, by a clock ahead of ours → since when this leader knows."""
    told_at: float = 0.0
    """When something about it was last to be written."""


def earliest(times: Iterable[float | None]) -> float | None:
    return min((at for at in times if at is not None), default=None)
