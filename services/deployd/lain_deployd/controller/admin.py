"""What operators change: nodes, drains, switches, routers. Any replica does it; the leader reads it from etcd like everybody else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from lain_deployd.controller.views import SWITCHES, NodeChange, NodeNotFound, NodeRequest, SwitchNotFound, SwitchRequest
from lain_shared import keys
from lain_shared.errors import Conflict, Denied, NotFound
from lain_shared.model.node import Drain, Node, Switch
from lain_shared.model.route import RouterMember, RouterState
from lain_shared.records import Records
from lain_shared.store import ABSENT, Store

log = structlog.get_logger()

ATTEMPTS = 3


class Admin:
    """The use cases behind the admin API. Reads before it writes, and writes only over what it read."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._nodes = Records(store, keys.NODES, Node)
        self._drains = Records(store, keys.DRAINS, Drain)
        self._switches = Records(store, keys.SWITCHES, Switch)
        self._members = Records(store, keys.ROUTER_MEMBERS, RouterMember)
        self._routers = Records(store, keys.ROUTERS, RouterState)

    async def register(self, name: str, wanted: NodeRequest, who: str) -> Node:
        """Create the node, or set its address and labels anew; its cordon stays as it is."""
        await self._writable()
        return await self._change(name, lambda node: replace(node, address=wanted.address, labels=dict(wanted.labels)),
                                  who, new=Node(name, wanted.address, dict(wanted.labels)))  # fmt: skip

    async def change(self, name: str, change: NodeChange, who: str) -> Node:
        """Cordon, uncordon, label. Raises ``NodeNotFound``."""
        await self._writable()

        def changed(node: Node) -> Node:
            labels = dict(node.labels)
            for label, value in (change.labels or {}).items():
                if value is None:
                    labels.pop(label, None)
                else:
                    labels[label] = value
            return replace(node, labels=labels, cordoned=node.cordoned if change.cordoned is None else change.cordoned)

        return await self._change(name, changed, who)

    async def drain(self, name: str, who: str) -> Drain:
        """Move the node's pods away; those with volumes or state stay. Raises ``NodeNotFound``."""
        await self._writable()
        if await self._nodes.get(name) is None:
            raise NodeNotFound(name)
        drain = Drain(name, who, self._clock())
        await self._drains.put(drain, name)
        log.info("drain_started", node=name, who=who)
        return drain

    async def end_drain(self, name: str, who: str) -> None:
        """No drain is none to end. Raises ``NodeNotFound`` when there is not even such a node."""
        await self._writable()
        if await self._drains.delete(name):
            log.info("drain_ended", node=name, who=who)
        elif await self._nodes.get(name) is None:
            raise NodeNotFound(name)

    async def set_switch(self, name: str, wanted: SwitchRequest, who: str) -> Switch:
        """Allowed always: it is the way out of ``readonly``."""
        if name not in SWITCHES:
            raise SwitchNotFound(name)
        switch = Switch(name, wanted.on, who, self._clock(), wanted.why)
        await self._switches.put(switch, name)
        log.info("switch_set", switch=name, on=wanted.on, who=who, why=wanted.why)
        return switch

    async def forget_router(self, name: str, who: str) -> None:
        """Rollouts no longer wait for this router. Refused while its watcher is alive: that one would register again."""
        await self._writable()
        member = await self._members.get(name)
        if member is None:
            raise NotFound(
                f"there is no router {name!r}", next="see them: lainctl router list", code="router_not_found"
            )
        if await self._routers.get(name) is not None:
            raise Conflict(
                f"router {name} is alive on {member.value.node}",
                why="a router whose watcher runs is expected to apply every change",
                next="stop its watcher first; it then leaves by itself",
                code="router_alive",
            )
        await self._members.delete(name, expect=member.entry.mod_revision)
        log.info("router_forgotten", router=name, who=who)

    async def _change(self, name: str, change: Callable[[Node], Node], who: str, *, new: Node | None = None) -> Node:
        for attempt in range(ATTEMPTS):
            known = await self._nodes.get(name)
            if known is None and new is None:
                raise NodeNotFound(name)
            wanted = new if known is None else change(known.value)
            if wanted is None or (known is not None and wanted == known.value):
                return known.value if known is not None else Node(name, "")
            try:
                await self._nodes.put(wanted, name, expect=known.entry.mod_revision if known else ABSENT)
            except Conflict:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            log.info("node_changed", node=name, cordoned=wanted.cordoned, labels=dict(wanted.labels), who=who)
            return wanted
        raise AssertionError("unreachable")

    async def _writable(self) -> None:
        for name in ("readonly", "maintenance"):
            switch = await self._switches.get(name)
            if switch is not None and switch.value.on:
                raise Denied(
                    f"the cluster is in {name} mode", why=switch.value.why or f"{switch.value.by} switched it on",
                    next=f"lainctl switch set {name} off", code=name,
                )  # fmt: skip
