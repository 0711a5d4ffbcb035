"""The console's families as nouns, and what is read of one app at a time.

Decisions read the store itself (linearizable); lists and event streams are served from mirrors (``mirrors.py``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lain_shared import keys
from lain_shared.errors import NotFound, Unavailable
from lain_shared.model.app import App, HistoryRecord, Operation, OperationHolder, Release
from lain_shared.model.config import ClusterConfig, Token
from lain_shared.model.image import KeptImages
from lain_shared.model.node import Alive, Node, NodeState, Switch
from lain_shared.model.pod import Assignment, Desired
from lain_shared.model.route import Endpoints, HostClaim, RouteClaim, RouterMember, RouterState
from lain_shared.model.status import ProcStatus
from lain_shared.model.traffic import OperationMark, RouterTraffic
from lain_shared.model.volume import VolumeDeletion
from lain_shared.records import BadRecord, Records, Stored
from lain_shared.store import Store

CLUSTER = "cluster"


class AppNotFound(NotFound):
    code = "app_not_found"

    def __init__(self, app: str) -> None:
        super().__init__(
            f"app {app!r} is not registered",
            next=f"register it: lain reposit (or look for its name: lain ps), app {app}",
        )


class VolumesUnknown(Unavailable):
    """What is on a node cannot be read."""

    code = "volumes_unknown"


@dataclass(frozen=True, slots=True)
class Scene:
    """One app as it stood when it was read. ``desired`` was read before ``status``: a status that answers it is not too old."""

    app: Stored[App]
    operation: Stored[Operation] | None = None
    holder: Stored[OperationHolder] | None = None
    desired: Mapping[str, Stored[Desired]] = field(default_factory=dict)
    status: Mapping[str, ProcStatus] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoints] = field(default_factory=dict)

    @property
    def wanted(self) -> dict[str, Desired]:
        """proc → what is wanted of it."""
        return {proc: stored.value for proc, stored in self.desired.items()}


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims on hosts and on paths of hosts, as stored."""

    hosts: Mapping[str, Stored[HostClaim]] = field(default_factory=dict)
    routes: Mapping[tuple[str, str], Stored[RouteClaim]] = field(default_factory=dict)
    unreadable_hosts: frozenset[str] = frozenset()
    unreadable_routes: frozenset[tuple[str, str]] = frozenset()
    """Somebody's, and nobody knows whose: they count as taken."""


class State:
    """Every family the console reads or writes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.apps = Records(store, keys.APPS, App)
        self.releases = Records(store, keys.RELEASES, Release)
        self.kept_images = Records(store, keys.KEPT_IMAGES, KeptImages)
        self.history = Records(store, keys.HISTORY, HistoryRecord)
        self.operations = Records(store, keys.OPERATIONS, Operation)
        self.holders = Records(store, keys.OPERATION_HOLDERS, OperationHolder)
        self.marks = Records(store, keys.OPERATION_MARKS, OperationMark)
        self.desired = Records(store, keys.DESIRED, Desired)
        self.status = Records(store, keys.STATUS, ProcStatus)
        self.endpoints = Records(store, keys.ENDPOINTS, Endpoints)
        self.hosts = Records(store, keys.HOSTS, HostClaim)
        self.routes = Records(store, keys.ROUTES, RouteClaim)
        self.tokens = Records(store, keys.TOKENS, Token)
        self.cluster = Records(store, keys.CONFIG, ClusterConfig)
        self.switches = Records(store, keys.SWITCHES, Switch)
        self.nodes = Records(store, keys.NODES, Node)
        self.alive = Records(store, keys.ALIVE, Alive)
        self.node_states = Records(store, keys.NODES_STATE, NodeState)
        self.assignments = Records(store, keys.ASSIGN, Assignment)
        self.volume_deletions = Records(store, keys.VOLUME_DELETIONS, VolumeDeletion)
        self.routers = Records(store, keys.ROUTERS, RouterState)
        self.router_members = Records(store, keys.ROUTER_MEMBERS, RouterMember)
        self.traffic = Records(store, keys.TRAFFIC, RouterTraffic)

    async def app(self, name: str) -> Stored[App]:
        """The registration; raises ``AppNotFound``."""
        stored = await self.apps.get(name)
        if stored is None:
            raise AppNotFound(name)
        return stored

    async def scene(self, name: str) -> Scene:
        """All of one app; raises ``AppNotFound``."""
        app, operation, holder, desired = await asyncio.gather(
            self.app(name), self.operations.get(name), self.holders.get(name), self.desired.list(name)
        )
        status, endpoints = await asyncio.gather(self.status.list(name), self.endpoints.list(name))
        return Scene(
            app,
            operation,
            holder,
            {stored.value.proc: stored for stored in desired},
            {stored.value.proc: stored.value for stored in status},
            {stored.value.proc: stored.value for stored in endpoints},
        )

    async def volumes_of(self, app: str) -> dict[str, tuple[str, ...]]:
        """node → the names of the app's volumes on it; raises ``VolumesUnknown``."""
        states, unreadable = await self.node_states.list_readable()
        if unreadable:
            nodes = ", ".join(sorted(keys.NODES_STATE.parse(key)[0] for key in unreadable))
            raise VolumesUnknown(
                f"{app!r} may have volumes that nobody sees: what is on {nodes} cannot be read",
                next=f"lainctl node inspect {nodes}",
            )
        mine = re.compile(re.escape(app) + r"\.[^.]+-[0-9]+\Z")
        found = {
            stored.value.node: tuple(name for name in stored.value.volumes if mine.match(name)) for stored in states
        }
        return {node: names for node, names in found.items() if names}

    async def deletions_of(self, app: str) -> tuple[str, ...]:
        """The nodes that still have to delete volumes of the app; an order that cannot be read counts."""
        orders = await self.store.list(keys.VOLUME_DELETIONS.prefix)
        parts = (keys.VOLUME_DELETIONS.parse(entry.key) for entry in orders.entries)
        return tuple(node for node, name in parts if name == app)

    async def release(self, app: str, number: int) -> Release:
        """One kept release; raises ``NotFound`` (code ``release_not_found``)."""
        stored = await self.releases.get(app, number)
        if stored is None:
            raise NotFound(
                f"app {app!r} has no release {number}",
                why="it never existed, or is no longer kept",
                next=f"see the releases that are kept: lain history {app}",
                code="release_not_found",
            )
        return stored.value

    async def cluster_config(self) -> Stored[ClusterConfig]:
        """``config/cluster``; raises ``NotFound`` when bootstrap has not been done."""
        stored = await self.cluster.get(CLUSTER)
        if stored is None:
            raise NotFound(
                "this cluster has no configuration yet",
                why="config/cluster is absent",
                next="bootstrap it: lain local up, or lainctl bootstrap",
                code="not_bootstrapped",
            )
        return stored

    async def claims_on(self, hosts: Iterable[str]) -> Claims:
        """Who claims these hosts, and which of their paths."""
        names = sorted(set(hosts))
        owners = await asyncio.gather(*(self._owner(host) for host in names))
        listed = await asyncio.gather(*(self.routes.list_readable(host) for host in names))
        return _claims(
            [owner for owner in owners if isinstance(owner, Stored)],
            [host for host, owner in zip(names, owners, strict=True) if isinstance(owner, BadRecord)],
            [stored for found, _ in listed for stored in found],
            [key for _, bad in listed for key in bad],
        )

    async def _owner(self, host: str) -> Stored[HostClaim] | BadRecord | None:
        try:
            return await self.hosts.get(host)
        except BadRecord as error:
            return error

    async def all_claims(self) -> Claims:
        """Every claim there is. Hosts first: a guest that comes while we read is seen in its route, or has changed the host we expect."""
        hosts, bad_hosts = await self.hosts.list_readable()
        routes, bad_routes = await self.routes.list_readable()
        return _claims(hosts, [keys.HOSTS.parse(key)[0] for key in bad_hosts], routes, bad_routes)


def _claims(
    hosts: Iterable[Stored[HostClaim]],
    unreadable_hosts: Iterable[str],
    routes: Iterable[Stored[RouteClaim]],
    unreadable_routes: Iterable[str],
) -> Claims:
    """``unreadable_routes``: their keys."""
    return Claims(
        {stored.value.host: stored for stored in hosts},
        {(stored.value.host, stored.value.path): stored for stored in routes},
        frozenset(unreadable_hosts),
        frozenset((host, path) for host, path in map(keys.ROUTES.parse, unreadable_routes)),
    )
