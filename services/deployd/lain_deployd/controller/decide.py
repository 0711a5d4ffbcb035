"""``Decider``: snapshots and a time in, one plan an app out. Plans only the apps that something may have changed for.

It holds what a leader remembers between passes (``view.ProcMemory``, ``presence.NodeMemory``), all of it safe to lose: a new leader
starts with a new one, which plans every app once and begins its waits afresh.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lain_deployd.controller import presence, status
from lain_deployd.controller.actions import Action
from lain_deployd.controller.plan import AppPlan, plan_app
from lain_deployd.controller.presence import NodeMemory
from lain_deployd.controller.view import AppView, Cluster, Limits, ProcMemory, Rooms, Routers, earliest
from lain_deployd.controller.world import Snapshots, World, parts_of
from lain_shared import keys

MAX_HOLD_SECONDS = 30.0
"""An app whose writes are refused again and again is tried this often."""


@dataclass(frozen=True, slots=True)
class Decision:
    """App → what to write for it, in order; and when to look again though nothing changed."""

    writes: Mapping[str, tuple[Action, ...]] = field(default_factory=dict)
    wake_at: float | None = None
    planned: int = 0
    """Apps that were looked at."""


class Decider:
    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.world = World()
        self.nodes = NodeMemory()
        self.breaker = ""
        self.crashes: dict[str, Exception] = {}
        """App → what its plan failed with, for whoever logs it (and takes it out)."""
        self._plans: dict[str, AppPlan] = {}
        self._again: set[str] = set()
        self._routers_away: dict[str, float] = {}
        self._all = True
        self._turn = 0
        self._held: dict[str, tuple[float, int]] = {}
        """App → until when it is left alone, and how often in a row its writes were refused."""
        self.faults: dict[str, dict[str, str]] = {}
        """App → why it cannot be planned: a fault of ours, which must not stop the others."""

    def again(self, app: str) -> None:
        """What was decided for this app did not happen: plan it in the next pass whatever changes."""
        self._again.add(app)

    def hold(self, app: str, now: float) -> float:
        """Its writes were refused: leave it alone for a while, longer each time. Returns for how long, in seconds."""
        failures = self._held.get(app, (0.0, 0))[1] + 1
        seconds = min(0.1 * 2.0 ** min(failures - 1, 16), MAX_HOLD_SECONDS)
        self._held[app] = now + seconds, failures
        if (plan := self._plans.get(app)) is not None:  # nothing was told after all: the next try waits for no company
            memory = {name: replace(each, told_at=0.0) for name, each in plan.memory.items()}
            self._plans[app] = replace(plan, memory=memory)
        self._again.add(app)
        return seconds

    @property
    def tries_at(self) -> float | None:
        """When the next app that is left alone is tried again."""
        return earliest(until for until, _ in self._held.values())

    def written(self, app: str) -> None:
        """All that was decided for this app was written."""
        self._held.pop(app, None)

    def replan_all(self) -> None:
        self._all = True

    def replan_some(self, share: float) -> None:
        """Plan this share of the apps in the next pass, whatever changed: all get their turn. What changed hurries, this decides."""
        apps = self.world.apps
        count = min(len(apps), math.ceil(len(apps) * share))
        for _ in range(count):
            self._turn = (self._turn + 1) % len(apps)
            self._again.add(apps[self._turn])

    def decide(self, snapshots: Snapshots, now: float, grace_until: float = 0.0) -> Decision:
        """What to write now. Until ``grace_until`` no node newly counts as lost."""
        world = self.world
        changed = world.update(snapshots)
        before, old_breaker = self.nodes, self.breaker
        self.nodes = presence.look(
            before,
            assigned=[node for node, apps in world.apps_on.items() if apps],
            present=world.present,
            now=now,
            grace_until=grace_until,
            limits=self.limits,
        )
        self.breaker = presence.breaker(self.nodes, world.nodes.keys(), world.switch("breaker"), self.limits)
        cluster = self._cluster(snapshots, now, grace_until)
        if self._all or changed.switches or old_breaker != self.breaker:
            due = set(world.apps) | self._plans.keys()
        else:
            touched = changed.nodes | (before.lost ^ self.nodes.lost)
            due = changed.apps | self._again
            due.update(app for node in touched for app in world.apps_on.get(node, ()))
            for app, plan in self._plans.items():
                late = plan.wake_at is not None and plan.wake_at <= now
                routers = changed.routers and "routers" in plan.waits
                room = (changed.room or touched) and "room" in plan.waits
                if late or routers or room:
                    due.add(app)
        self._all = False
        self._again.clear()
        writes: dict[str, tuple[Action, ...]] = {}
        for app in sorted(due):
            if self._held.get(app, (now, 0))[0] > now:
                self._again.add(app)
                continue
            view = world.app(app)
            if not view.procs and not view.frozen:
                self._plans.pop(app, None)
                self._held.pop(app, None)
                self.faults.pop(app, None)
                continue
            plan = self._plan(view, cluster)
            self._plans[app] = replace(plan, actions=())
            if plan.actions:
                writes[app] = plan.actions
                self._again.add(app)  # to see that it is so
            else:
                self._held.pop(app, None)  # what was refused is not wanted any more, or is so
        grace_ends = grace_until if now < grace_until and self._some_absent() else None
        forgets = cluster.routers.forgets_at() if any("routers" in p.waits for p in self._plans.values()) else None
        plans = (plan.wake_at for app, plan in self._plans.items() if app not in self._held)  # those: see ``tries_at``
        wake_at = earliest((grace_ends, forgets, *plans))
        return Decision(writes, wake_at, len(due))

    def _plan(self, view: AppView, cluster: Cluster) -> AppPlan:
        """The plan of one app; should making it fail, the app is frozen, alone, and says so."""
        known = self._plans.get(view.app)
        memory: Mapping[str, ProcMemory] = known.memory if known is not None else {}
        try:
            plan = plan_app(view, cluster, memory)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            if self.faults.get(view.app) != {"plan": why}:
                self.crashes[view.app] = error
            self.faults[view.app] = {"plan": why}
            frozen = replace(view, frozen=f"it cannot be planned, which is a fault of LAIN: {why}")
            return AppPlan(tuple(status.freeze(frozen, cluster.now)), memory)
        self.faults.pop(view.app, None)
        return plan

    def _cluster(self, snapshots: Snapshots, now: float, grace_until: float) -> Cluster:
        world = self.world
        spared = frozenset(world.nodes) - world.present - self.nodes.lost if now < grace_until else frozenset()
        maintenance, guard = world.switch("maintenance"), world.switch("guard")
        settle = self.limits.heal_settle_seconds
        return Cluster(
            now=now,
            revision=snapshots.revision,
            rooms=Rooms(world.rooms),
            nodes=world.nodes,
            present=world.present | spared,
            lost=self.nodes.lost,
            settling={
                **{node: at + settle for node, at in self.nodes.returned.items() if now < at + settle},
                **dict.fromkeys(
                    spared, grace_until
                ),  # one of them may be dead for long, which a new leader does not know
            },
            leaving=world.leaving,
            breaker=self.breaker,
            room_wanted=any("room" in plan.waits for plan in self._plans.values()),
            maintenance=maintenance is not None and maintenance.on,
            guard_asleep=guard is not None and not guard.on,
            routers=self._routers(snapshots, now),
            volumes=world.volumes,
            limits=self.limits,
        )

    def _routers(self, snapshots: Snapshots, now: float) -> Routers:
        """All members, also those whose record cannot be read: they exist, and have not applied anything that we could read."""
        unreadable = [key for key in snapshots.unreadable if key.startswith(keys.ROUTER_MEMBERS.prefix)]
        states = {}
        for key in (*snapshots.router_members, *unreadable):
            if (parts := parts_of(keys.ROUTER_MEMBERS, key)) is None:
                continue  # nobody's: reported as unreadable
            (name,) = parts
            state_key = keys.ROUTERS.key(name)
            stored = None if state_key in snapshots.unreadable else snapshots.routers.get(state_key)
            states[name] = stored.value if stored is not None else None
        present = {name for name, state in states.items() if state is not None}
        present |= {name for name in states if keys.ROUTERS.key(name) in snapshots.unreadable}
        self._routers_away = {name: self._routers_away.get(name, now) for name in states if name not in present}
        away = dict(self._routers_away)
        away.update({name: now for name in states if states[name] is None and name in present})
        return Routers(now, states, away, self.limits.router_forget_seconds)

    def _some_absent(self) -> bool:
        world = self.world
        return any(apps and node not in world.present for node, apps in world.apps_on.items())
