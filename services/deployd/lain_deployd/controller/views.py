"""What the admin API answers, put together from the controller's mirrors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lain_deployd.controller.draft import has_volume
from lain_deployd.controller.view import ProcView
from lain_deployd.controller.world import Snapshots, World
from lain_shared import keys
from lain_shared.deployd_views import AssignmentView, InstanceReason, NodeView, PodView, RouterView, WhyView
from lain_shared.errors import NotFound
from lain_shared.model.node import Switch
from lain_shared.model.pod import Assignment, Desired
from lain_shared.placement import Ask, Opinion, explain

SWITCHES: Mapping[str, str] = {
    "readonly": "the APIs refuse every change",
    "maintenance": "nothing is created, moved or stopped; endpoints follow readiness",
    "guard": "off: pods of lost nodes are not replaced",
    "breaker": "on: nothing is moved; off: what vanished before is moved all the same",
}


class NodeNotFound(NotFound):
    code = "node_not_found"

    def __init__(self, node: str) -> None:
        super().__init__(f"node {node!r} is not registered", next="see the registered ones: lainctl node list")


class SwitchNotFound(NotFound):
    code = "switch_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no switch {name!r}", evidence={"switches": dict(SWITCHES)})


def nodes(snapshots: Snapshots) -> tuple[NodeView, ...]:
    world = _world(snapshots)
    return tuple(_node(snapshots, world, name) for name in sorted(world.nodes))


def node(snapshots: Snapshots, name: str) -> NodeView:
    world = _world(snapshots)
    if name not in world.nodes:
        raise NodeNotFound(name)
    return _node(snapshots, world, name)


def _node(snapshots: Snapshots, world: World, name: str) -> NodeView:
    alive = snapshots.alive.get(keys.ALIVE.key(name))
    state = snapshots.nodes_state.get(keys.NODES_STATE.key(name))
    room = world.rooms[name]
    pods = sum(world.apps_on[name].values()) if name in world.apps_on else 0
    return NodeView(
        world.nodes[name], alive.value if alive else None, state.value if state else None, pods,
        room.used_memory_bytes, room.used_cpu, name in world.leaving,
    )  # fmt: skip


def pods(snapshots: Snapshots) -> tuple[PodView, ...]:
    return tuple(
        PodView(app=status.app, proc=status.proc, **_fields(line))
        for _, stored in sorted(snapshots.status.items())
        for status in [stored.value]
        for line in status.instances
    )


def assignments(snapshots: Snapshots) -> tuple[AssignmentView, ...]:
    return tuple(
        AssignmentView(node=keys.ASSIGN.parse(key)[0], revision=stored.entry.mod_revision, **_fields(stored.value))
        for key, stored in sorted(snapshots.assign.items())
    )


def routers(snapshots: Snapshots) -> tuple[RouterView, ...]:
    found = []
    for _, stored in sorted(snapshots.router_members.items()):
        member = stored.value
        known = snapshots.routers.get(keys.ROUTERS.key(member.router))
        state = known.value if known else None
        behind = tuple(
            f"{endpoints.value.app}/{endpoints.value.proc}"
            for _, endpoints in sorted(snapshots.endpoints.items())
            if state is not None and endpoints.entry.mod_revision > state.applied_revision
        )
        found.append(RouterView(member.router, member.node, member.since, state, behind))
    return tuple(found)


def switches(snapshots: Snapshots) -> tuple[Switch, ...]:
    """All of them, those that were never set included."""
    known = {stored.value.name: stored.value for stored in snapshots.switches.values()}
    return tuple(known.get(name) or Switch(name, on=name == "guard", why="never set") for name in SWITCHES)


def switch(snapshots: Snapshots, name: str) -> Switch:
    """Raises ``NotFound`` for a name that is no switch."""
    for each in switches(snapshots):
        if each.name == name:
            return each
    raise SwitchNotFound(name)


def why(snapshots: Snapshots, app: str, proc: str) -> WhyView:
    """Raises ``NotFound`` for a proc that is neither wanted nor there."""
    world = _world(snapshots)
    view = world.app(app)
    known = view.procs.get(proc)
    if known is None:
        raise NotFound(
            f"nothing is known of proc {proc!r} of app {app!r}",
            next=f"see its procs: lain ps {app}",
            code="proc_not_found",
        )
    reasons = tuple(
        InstanceReason(placed.pod.instance, placed.node, _reason(known, placed.node, placed.pod))
        for placed in sorted(known.placed, key=lambda placed: placed.key[1:])
    )
    opinions: tuple[Opinion, ...] = ()
    if (desired := known.desired) is not None:
        opinions = explain(Ask(app, proc, desired.template, desired.filters, _home(known, desired)), world.rooms)
    status = known.status
    return WhyView(
        app, proc, status.phase if status else None, status.message if status else "", reasons, opinions, view.frozen
    )


def _reason(view: ProcView, node: str, pod: Assignment) -> str:
    if not pod.run:
        return "told to stop; its node has not yet said that it is gone"
    if pod.draining:
        return "on its way out: draining until the routers are done with it"
    if view.desired is None:
        return "no longer wanted"
    if has_volume(pod.template):
        return f"its volume is on {node}"
    if pod.stateful:
        return f"its state is on {node}"
    return f"{node} fitted best when generation {pod.generation} was placed"


def _home(view: ProcView, desired: Desired) -> str | None:
    if not (desired.stateful or has_volume(desired.template)) or len(view.placed) != 1:
        return None
    return view.placed[0].node


def _world(snapshots: Snapshots) -> World:
    world = World()
    world.update(snapshots)
    return world


def _fields(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """What an operator says when registering a node."""

    address: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeChange:
    """What an operator changes of a node; None: leave it as it is."""

    cordoned: bool | None = None
    labels: Mapping[str, str | None] | None = None
    """Label → value, or None to remove it."""


@dataclass(frozen=True, slots=True)
class SwitchRequest:
    on: bool
    why: str = ""
