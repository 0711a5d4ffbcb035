"""The families the controller reads, each in memory, and what it takes to trust them: whole, caught up, and past our own writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from lain_deployd.controller.world import Snapshots
from lain_shared import keys
from lain_shared.mirror import Mirror
from lain_shared.model.node import Alive, Drain, Node, NodeState, Switch
from lain_shared.model.pod import Assignment, Desired, Observed
from lain_shared.model.route import Endpoints, RouteClaim, RouterMember, RouterState
from lain_shared.model.status import ProcStatus
from lain_shared.records import Records
from lain_shared.store import Store

log = structlog.get_logger()

_KINDS: Mapping[str, tuple[keys.Family, type[Any]]] = {
    "desired": (keys.DESIRED, Desired),
    "nodes": (keys.NODES, Node),
    "alive": (keys.ALIVE, Alive),
    "nodes_state": (keys.NODES_STATE, NodeState),
    "assign": (keys.ASSIGN, Assignment),
    "observed": (keys.OBSERVED, Observed),
    "endpoints": (keys.ENDPOINTS, Endpoints),
    "status": (keys.STATUS, ProcStatus),
    "router_members": (keys.ROUTER_MEMBERS, RouterMember),
    "routers": (keys.ROUTERS, RouterState),
    "switches": (keys.SWITCHES, Switch),
    "drains": (keys.DRAINS, Drain),
    "routes": (keys.ROUTES, RouteClaim),
}


class Mirrors:
    """All of them. ``parts`` go into the daemon; ``snapshots`` is what one pass reads."""

    def __init__(self, store: Store, on_change: Callable[[], None], *, resync_seconds: float = 30.0) -> None:
        self._by_name: dict[str, Mirror[Any]] = {
            name: Mirror(Records(store, family, kind), on_change=on_change, resync_seconds=resync_seconds)
            for name, (family, kind) in _KINDS.items()
        }

    @property
    def parts(self) -> tuple[Mirror[Any], ...]:
        return tuple(self._by_name.values())

    def __getitem__(self, name: str) -> Mirror[Any]:
        return self._by_name[name]

    @property
    def ready(self) -> bool:
        return all(mirror.ready for mirror in self.parts)

    def snapshots(self) -> Snapshots:
        """Everything as known now. Raises ``NotYetWhole`` while any family has not been read: unknown is not empty."""
        revision = max(mirror.revision for mirror in self.parts)
        unreadable = {key: why for mirror in self.parts for key, why in mirror.bad.items()}
        return Snapshots(
            revision, unreadable=unreadable, **{name: mirror.snapshot() for name, mirror in self._by_name.items()}
        )

    async def wait_whole(self) -> None:
        for mirror in self.parts:
            await mirror.wait_whole()

    async def catch_up(self) -> None:
        """Read, linearizably, all that was written before now. Raises ``Unavailable`` and the like."""
        await asyncio.gather(*(mirror.catch_up() for mirror in self.parts))

    async def settle(self, written: Mapping[str, int], *, patience_seconds: float = 1.0) -> None:
        """Wait until our own writes (family → revision) are in memory; a watch that is slow to tell is not waited for, we ask."""
        waiting = [mirror for mirror in self.parts if mirror.records.family.name in written]
        try:
            async with asyncio.timeout(patience_seconds):
                for mirror in waiting:
                    await mirror.wait_until(written[mirror.records.family.name])
        except TimeoutError:
            log.warning("watch_slow", families=[mirror.name for mirror in waiting])
            await asyncio.gather(*(mirror.catch_up() for mirror in waiting))
