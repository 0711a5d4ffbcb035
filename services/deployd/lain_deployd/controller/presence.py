"""Which nodes are lost, which just came back, and whether so many went at once that nothing may be moved. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lain_deployd.controller.view import Limits
from lain_shared.model.node import Switch


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """What a leader remembers of the nodes' comings and goings."""

    seen: frozenset[str] = frozenset()
    vanished: Mapping[str, float] = field(default_factory=dict)
    """Nodes that are away → since when."""
    returned: Mapping[str, float] = field(default_factory=dict)
    """Nodes that came back lately → when."""

    @property
    def lost(self) -> frozenset[str]:
        return frozenset(self.vanished)


def look(
    memory: NodeMemory,
    *,
    assigned: Collection[str],
    present: Collection[str],
    now: float,
    grace_until: float,
    limits: Limits,
) -> NodeMemory:
    """The memory after this look. A node counts as lost when it was here, or has assignments, and its presence is gone.

    A new leader (an empty memory) takes those with assignments and no presence to have vanished now. Until ``grace_until`` (etcd was away
    for longer than a lease) no node newly counts as lost.
    """
    vanished = {node: at for node, at in memory.vanished.items() if node not in present}
    if now >= grace_until:
        for node in {*assigned, *memory.seen} - {*present}:
            vanished.setdefault(node, now)
    returned = {node: at for node, at in memory.returned.items() if now < at + limits.heal_settle_seconds}
    returned.update({node: now for node in memory.vanished if node in present})
    return NodeMemory(memory.seen | frozenset(present), vanished, returned)


def breaker(memory: NodeMemory, nodes: Collection[str], switch: Switch | None, limits: Limits) -> str:
    """Why nothing may be moved now; "" when it may: a third of the nodes, at least two, vanished within a minute and are still away.

    An operator's ``breaker`` switch: ``on`` stops moving whatever happens; ``off`` forgives everything that vanished before it was set.
    """
    if switch is not None and switch.on:
        return "an operator stopped all moving (switch breaker)"
    forgiven_until = switch.at if switch is not None else float("-inf")
    times = sorted(at for node, at in memory.vanished.items() if node in nodes and at > forgiven_until)
    limit = max(2, -(-len(nodes) // 3))
    for first, at in enumerate(times):
        together = sum(1 for other in times[first:] if other <= at + limits.breaker_window_seconds)
        if together >= limit:
            return (
                f"{together} of {len(nodes)} nodes vanished within {limits.breaker_window_seconds:.0f} s and are away: "
                "nothing is moved (lainctl switch set breaker off to move all the same)"
            )
    return ""
