"""Which noun each family of keys holds, and an example key of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lain_shared import keys
from lain_shared.keys import Family
from lain_shared.model import app, config, image, node, pod, route, status, traffic, volume

POD = "hello.web-1.g42"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record: its family, the parts of an example key, its type; ``name`` names the golden file."""

    family: Family
    parts: tuple[str | int, ...]
    type: type[Any]
    name: str


KINDS: tuple[Kind, ...] = (
    Kind(keys.CONFIG, ("cluster",), config.ClusterConfig, "config.cluster"),
    Kind(keys.CONFIG, ("jwks",), config.Jwks, "config.jwks"),
    Kind(keys.TOKENS, ("01J0",), config.Token, "tokens"),
    Kind(keys.APPS, ("hello",), app.App, "apps"),
    Kind(keys.RELEASES, ("hello", 3), app.Release, "releases"),
    Kind(keys.KEPT_IMAGES, ("hello", 3), image.KeptImages, "kept-images"),
    Kind(keys.HISTORY, ("hello", "01J0"), app.HistoryRecord, "history"),
    Kind(keys.OPERATIONS, ("hello",), app.Operation, "operations"),
    Kind(keys.OPERATION_HOLDERS, ("hello",), app.OperationHolder, "operation-holders"),
    Kind(keys.OPERATION_MARKS, ("hello",), traffic.OperationMark, "operation-marks"),
    Kind(keys.DESIRED, ("hello", "web"), pod.Desired, "desired"),
    Kind(keys.PORTS, ("tcp", 5432), route.PortClaim, "ports"),
    Kind(keys.HOSTS, ("hello.lain.localhost",), route.HostClaim, "hosts"),
    Kind(keys.ROUTES, ("hello.lain.localhost", "/shop/cart"), route.RouteClaim, "routes"),
    Kind(keys.NODES, ("n1",), node.Node, "nodes"),
    Kind(keys.VOLUME_DELETIONS, ("n1", "hello"), volume.VolumeDeletion, "volume-deletions"),
    Kind(keys.DRAINS, ("n1",), node.Drain, "drains"),
    Kind(keys.SWITCHES, ("readonly",), node.Switch, "switches"),
    Kind(keys.ALIVE, ("n1",), node.Alive, "alive"),
    Kind(keys.NODES_STATE, ("n1",), node.NodeState, "nodes-state"),
    Kind(keys.OBSERVED, ("n1", POD), pod.Observed, "observed"),
    Kind(keys.LEADER, ("deployd",), node.Leader, "leader"),
    Kind(keys.ASSIGN, ("n1", POD), pod.Assignment, "assign"),
    Kind(keys.ENDPOINTS, ("hello", "web"), route.Endpoints, "endpoints"),
    Kind(keys.STATUS, ("hello", "web"), status.ProcStatus, "status"),
    Kind(keys.ROUTER_MEMBERS, ("r1",), route.RouterMember, "router-members"),
    Kind(keys.ROUTERS, ("r1",), route.RouterState, "routers"),
    Kind(keys.TRAFFIC, ("r1", "hello"), traffic.RouterTraffic, "traffic"),
    Kind(keys.BLOCKS, ("172.20.1.0/24",), node.Block, "blocks"),
)

WITHOUT_RECORDS = frozenset({"singleton-holders", "audit"})
"""Families of today's daemons in which nothing is written yet."""
