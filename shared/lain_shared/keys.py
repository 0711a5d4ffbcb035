"""The map of etcd: every key family, its parts, its one writer, its readers. No key is spelled anywhere else.

One root, ``/lain/``. A part may hold any text: it is percent-encoded in the key, so a host, a path or a CIDR block never adds a
level. Numbers are padded so that keys sort as numbers. etcd users and roles are generated from this page (``grants``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

ROOT = "/lain/"
SAFE = "-_.~@*:"

CONSOLE, DEPLOYD, AGENT, NETWORKD, WATCHER, LAINLET = "console", "deployd", "agent", "networkd", "watcher", "lainlet"
SSO, LVAULT, REGISTRY_AUTH, BACKUPD, REBELLION, LIBANA = (
    "sso",
    "lvault",
    "registry-auth",
    "backupd",
    "rebellion",
    "libana",
)
EVERYONE = (CONSOLE, DEPLOYD, AGENT, NETWORKD, WATCHER, LAINLET, SSO, LVAULT, REGISTRY_AUTH, BACKUPD, REBELLION, LIBANA)
DAEMONS = (CONSOLE, DEPLOYD, AGENT, WATCHER)
"""The daemons that exist; the others' families are reserved, and get no etcd user until their daemon is there."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family of keys.

    ``writers``: the daemons (etcd users) that may write it: one, except where the design names an exception. ``per_node``: the
    first part is a node and that node's own user writes only there. ``leased``: its keys live on a lease. ``version``: the newest
    document version this code writes; it also reads the one before.
    """

    name: str
    parts: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    says: str
    per_node: bool = False
    node_readers: tuple[str, ...] = ()
    """Daemons that read only what is under their own node: a node's agent learns nothing of other nodes' environments."""
    leased: bool = False
    version: int = 1

    @property
    def prefix(self) -> str:
        return f"{ROOT}{self.name}/"

    def key(self, *parts: str | int) -> str:
        """The key of these parts. ``family.parse(family.key(*parts)) == parts`` (numbers come back as text)."""
        if len(parts) != len(self.parts):
            raise ValueError(f"{self.name} takes {len(self.parts)} parts {self.parts}, not {parts!r}")
        return self.prefix + "/".join(_encode(part) for part in parts)

    def under(self, *parts: str | int) -> str:
        """The prefix of every key whose first parts are these."""
        return self.prefix + "".join(_encode(part) + "/" for part in parts)

    def parse(self, key: str) -> tuple[str, ...]:
        """The parts of a key of this family; ``ValueError`` for any other key."""
        if not key.startswith(self.prefix):
            raise ValueError(f"{key!r} is not of family {self.name}")
        parts = tuple(unquote(part) for part in key.removeprefix(self.prefix).split("/"))
        if len(parts) != len(self.parts):
            raise ValueError(f"{key!r} has {len(parts)} parts, family {self.name} takes {self.parts}")
        if not all(parts):
            raise ValueError(f"{key!r} has an empty part")
        return parts


def _encode(part: str | int) -> str:
    if isinstance(part, int):
        return f"{part:010d}"
    if not part:
        raise ValueError("a part of a key cannot be empty")
    return quote(part, safe=SAFE)


CONFIG = Family("config", ("name",), (CONSOLE,), EVERYONE, "settings and public keys (JWKS)")
TOKENS = Family("tokens", ("id",), (CONSOLE,), EVERYONE, "issued long-lived tokens: name, role, scope, expiry, revoked")
APPS = Family("apps", ("app",), (CONSOLE,), (CONSOLE, BACKUPD), "registration, owner, current release")
RELEASES = Family("releases", ("app", "release"), (CONSOLE,), (CONSOLE, BACKUPD), "one immutable release")
KEPT_IMAGES = Family(
    "kept-images",
    ("app", "release"),
    (CONSOLE,),
    (CONSOLE, AGENT),
    "images of releases that can be gone back to: no node removes them",
)
HISTORY = Family("history", ("app", "operation"), (CONSOLE,), (CONSOLE,), "ended operations, with their evidence")
OPERATIONS = Family("operations", ("app",), (CONSOLE,), (CONSOLE,), "the running operation")
OPERATION_HOLDERS = Family(
    "operation-holders", ("app",), (CONSOLE,), (CONSOLE,), "which console drives it", leased=True
)
OPERATION_MARKS = Family(
    "operation-marks",
    ("app",),
    (CONSOLE,),
    (CONSOLE, WATCHER),
    "that an operation runs, which, since when: all that routers learn of it",
)
DESIRED = Family("desired", ("app", "proc"), (CONSOLE,), (CONSOLE, DEPLOYD, BACKUPD), "what should run")
PORTS = Family("ports", ("proto", "port"), (CONSOLE,), (CONSOLE, DEPLOYD, WATCHER), "claims on stream ports")
HOSTS = Family(
    "hosts",
    ("host",),
    (CONSOLE,),
    (CONSOLE, DEPLOYD, WATCHER),
    "owner of a host name, and who else may claim paths on it",
)
ROUTES = Family("routes", ("host", "path"), (CONSOLE,), (CONSOLE, DEPLOYD, WATCHER), "claims on a path of a host")
NODES = Family("nodes", ("node",), (DEPLOYD,), EVERYONE, "address, labels, cordon")
VOLUME_DELETIONS = Family(
    "volume-deletions",
    ("node", "app"),
    (CONSOLE,),
    (CONSOLE,),
    "volumes of an undeployed app that a node shall delete",
    node_readers=(AGENT,),
)
DRAINS = Family("drains", ("node",), (DEPLOYD,), (DEPLOYD, CONSOLE), "a node drain in progress")
SWITCHES = Family("switches", ("name",), (DEPLOYD,), (DEPLOYD, CONSOLE), "readonly, maintenance, guard, breaker")
ALIVE = Family("alive", ("node",), (AGENT,), EVERYONE, "presence of a node's agent", per_node=True, leased=True)
NODES_STATE = Family("nodes-state", ("node",), (AGENT,), EVERYONE, "capacity, versions, disk", per_node=True)
OBSERVED = Family(
    "observed",
    ("node", "pod"),
    (AGENT,),
    (CONSOLE, DEPLOYD, NETWORKD, LAINLET, BACKUPD, REBELLION),
    "what runs, as its node saw it",
    per_node=True,
    node_readers=(AGENT,),
)
LEADER = Family(
    "leader", ("service",), (DEPLOYD, BACKUPD), EVERYONE, "which replica leads; fences its writes", leased=True
)
SINGLETON_HOLDERS = Family(
    "singleton-holders", ("app", "proc"), (AGENT,), EVERYONE, "which node may let a singleton speak", leased=True
)
ASSIGN = Family(
    "assign",
    ("node", "pod"),
    (DEPLOYD,),
    (CONSOLE, DEPLOYD, LVAULT),
    "all a node needs to run one pod",
    node_readers=(AGENT, NETWORKD, BACKUPD, REBELLION),
)
ENDPOINTS = Family("endpoints", ("app", "proc"), (DEPLOYD,), EVERYONE, "routes and addresses: all that routers read")
STATUS = Family(
    "status", ("app", "proc"), (DEPLOYD,), (CONSOLE, DEPLOYD, LAINLET), "counts, progress, why an instance has no node"
)
ROUTER_MEMBERS = Family("router-members", ("router",), (WATCHER, DEPLOYD), EVERYONE, "which routers exist")
ROUTERS = Family("routers", ("router",), (WATCHER,), EVERYONE, "what a router has applied", leased=True)
TRAFFIC = Family(
    "traffic",
    ("router", "app"),
    (WATCHER,),
    (CONSOLE,),
    "what a router counted before, during and after an app's latest operations",
    leased=True,
)
BLOCKS = Family("blocks", ("block",), (AGENT,), EVERYONE, "the address block of a node (create-if-absent)")
NETWORK_STATE = Family("network-state", ("node",), (NETWORKD,), EVERYONE, "applied revision, self-test", per_node=True)
VIPS = Family("vips", ("address",), (NETWORKD,), EVERYONE, "virtual addresses")
VIP_HOLDERS = Family(
    "vip-holders", ("address",), (NETWORKD,), EVERYONE, "who answers for a virtual address", leased=True
)
SECRETS = Family("secrets", ("app", "name"), (LVAULT,), (LVAULT,), "encrypted configuration")
SEALED = Family("sealed", ("node", "pod"), (LVAULT,), (LVAULT, AGENT), "secrets sealed to one node")
SSO_DATA = Family("sso", ("kind", "id"), (SSO,), (SSO,), "people and clients")
BACKUPS = Family("backups", ("app", "id"), (BACKUPD,), (BACKUPD, CONSOLE), "schedules and snapshots")
AUDIT = Family("audit", ("daemon", "id"), DAEMONS, (CONSOLE,), "records of change, chained by hash")

FAMILIES: tuple[Family, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Family))
BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}


def family_of(key: str) -> Family:
    """The family a key belongs to; ``ValueError`` when it is none of ours."""
    name = key.removeprefix(ROOT).partition("/")[0]
    if not key.startswith(ROOT) or name not in BY_NAME:
        raise ValueError(f"{key!r} belongs to no key family of LAIN")
    return BY_NAME[name]


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission of an etcd role: on every key that starts with ``prefix``, or (``exact``) on that one key only."""

    prefix: str
    write: bool
    exact: bool = False


def user_of(daemon: str, node: str | None = None) -> str:
    """The etcd user (= the certificate's common name) of a daemon; each node's agent is a user of its own."""
    return f"{daemon}@{node}" if node is not None else daemon


def is_per_node(daemon: str) -> bool:
    """True for daemons that run on every node, each as a user of its own: they write families whose first part is their node."""
    return any(family.per_node and daemon in family.writers for family in FAMILIES)


def grants(daemon: str, node: str | None = None) -> tuple[Grant, ...]:
    """What the etcd user of ``daemon`` (on ``node``, for per-node daemons) may touch: exactly its families."""
    found: list[Grant] = []
    for family in FAMILIES:
        if daemon in family.node_readers:
            if node is not None:
                found.append(Grant(family.under(node), write=False))
        elif daemon in family.readers or daemon in family.writers:
            found.append(Grant(family.prefix, write=False))
        if daemon not in family.writers:
            continue
        if family.per_node or family is LEADER or family is AUDIT:
            own = node if family.per_node else daemon
            if own is None:
                continue
            if len(family.parts) == 1:
                found.append(Grant(family.key(own), write=True, exact=True))
            else:
                found.append(Grant(family.under(own), write=True))
        else:
            found.append(Grant(family.prefix, write=True))
    return tuple(found)
