"""etcd's users and roles, generated from the map of keys: each daemon is a user of its own and may touch exactly its families.

A user has no password: it is whoever shows a certificate with that common name. ``apply`` brings etcd to what ``keys.grants`` says, and
may be run again at any time (a new node, a new version with new families); it leaves users and roles it does not know alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lain_shared import etcd_proto, keys
from lain_shared.errors import Conflict, NotFound
from lain_shared.etcd import EtcdStore
from lain_shared.etcd_watch import range_end
from lain_shared.keys import Grant

ROOT_USER = "root"
"""The user (and certificate name) that administers etcd itself; no daemon has it."""
READ, READWRITE = 0, 2


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """On the keys from ``key`` up to (not including) ``range_end``; an empty ``range_end`` is the one key."""

    key: bytes
    range_end: bytes
    kind: int


@dataclass(frozen=True, slots=True)
class AuthState:
    """Roles and what they permit; users and their roles."""

    roles: Mapping[str, frozenset[Permission]]
    users: Mapping[str, frozenset[str]]


# --- the plan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddRole:
    role: str


@dataclass(frozen=True, slots=True)
class Permit:
    role: str
    permission: Permission


@dataclass(frozen=True, slots=True)
class Forbid:
    role: str
    permission: Permission


@dataclass(frozen=True, slots=True)
class AddUser:
    user: str


@dataclass(frozen=True, slots=True)
class GiveRole:
    user: str
    role: str


@dataclass(frozen=True, slots=True)
class TakeRole:
    user: str
    role: str


Action = AddRole | Permit | Forbid | AddUser | GiveRole | TakeRole


def wanted(nodes: Iterable[str], daemons: Iterable[str] = keys.DAEMONS) -> AuthState:
    """The users of these daemons (one a node for per-node daemons) with exactly their families, and ``root``."""
    roles: dict[str, frozenset[Permission]] = {ROOT_USER: frozenset()}
    node_names = tuple(nodes)
    for daemon in daemons:
        places: tuple[str | None, ...] = node_names if keys.is_per_node(daemon) else (None,)
        for node in places:
            roles[keys.user_of(daemon, node)] = permissions(keys.grants(daemon, node))
    return AuthState(roles, {name: frozenset({name}) for name in roles})


def permissions(grants: Iterable[Grant]) -> frozenset[Permission]:
    """Grants as etcd's permissions: one a range, writing includes reading."""
    kinds: dict[tuple[bytes, bytes], int] = {}
    for grant in grants:
        key = grant.prefix.encode()
        bounds = (key, b"" if grant.exact else range_end(key))
        kinds[bounds] = max(kinds.get(bounds, READ), READWRITE if grant.write else READ)
    return frozenset(Permission(key, end, kind) for (key, end), kind in kinds.items())


def plan(current: AuthState, target: AuthState) -> tuple[Action, ...]:
    """What must be done so that ``current`` has everything of ``target``, and the users of ``target`` nothing more."""
    actions: list[Action] = []
    for role in sorted(target.roles):
        if role not in current.roles:
            actions.append(AddRole(role))
        has, should = current.roles.get(role, frozenset()), target.roles[role]
        kept = {(permission.key, permission.range_end) for permission in should}
        actions += [Permit(role, permission) for permission in sorted(should - has)]
        actions += [Forbid(role, one) for one in sorted(has - should) if (one.key, one.range_end) not in kept]
    for user in sorted(target.users):
        if user not in current.users:
            actions.append(AddUser(user))
        has_roles = current.users.get(user, frozenset())
        actions += [GiveRole(user, role) for role in sorted(target.users[user] - has_roles)]
        actions += [TakeRole(user, role) for role in sorted(has_roles - target.users[user])]
    return tuple(actions)


# --- carrying it out --------------------------------------------------------------------------------------------------


async def apply(store: EtcdStore, nodes: Iterable[str], *, daemons: Iterable[str] = keys.DAEMONS) -> tuple[Action, ...]:
    """Make etcd's users and roles what the map of keys says for these nodes, and switch authentication on; returns what was done.

    Needs ``root``'s certificate once authentication is on (``Denied`` otherwise).
    """
    target = wanted(nodes, daemons)
    actions = plan(await read_state(store, target), target)
    for action in actions:
        await execute(store, action)
    await store.members.read("/etcdserverpb.Auth/AuthEnable", etcd_proto.AuthEnableRequest())
    return actions


async def remove_node(store: EtcdStore, node: str, *, daemons: Iterable[str] = keys.DAEMONS) -> None:
    """Delete the users and roles of a node's own daemons. Already gone is success."""
    for daemon in daemons:
        if not keys.is_per_node(daemon):
            continue
        name = keys.user_of(daemon, node)
        for method, request in (
            ("UserDelete", etcd_proto.AuthUserDeleteRequest(name=name)),
            ("RoleDelete", etcd_proto.AuthRoleDeleteRequest(role=name)),
        ):
            try:
                await store.members.read(f"/etcdserverpb.Auth/{method}", request)
            except (Conflict, NotFound) as error:
                _require("not found", error)


async def read_state(store: EtcdStore, of: AuthState) -> AuthState:
    """etcd's roles and users, as far as ``of`` names them."""
    read = store.members.read
    roles: dict[str, frozenset[Permission]] = {}
    for role in (await read("/etcdserverpb.Auth/RoleList", etcd_proto.AuthRoleListRequest())).roles:
        if role == ROOT_USER:
            roles[role] = frozenset()  # everything, built in
        elif role in of.roles:
            answer = await read("/etcdserverpb.Auth/RoleGet", etcd_proto.AuthRoleGetRequest(role=role))
            roles[role] = frozenset(Permission(one.key, one.range_end, one.permType) for one in answer.perm)
    users: dict[str, frozenset[str]] = {}
    for user in (await read("/etcdserverpb.Auth/UserList", etcd_proto.AuthUserListRequest())).users:
        if user in of.users:
            answer = await read("/etcdserverpb.Auth/UserGet", etcd_proto.AuthUserGetRequest(name=user))
            users[user] = frozenset(answer.roles)
    return AuthState(roles, users)


async def execute(store: EtcdStore, action: Action) -> None:
    """Carry one action out. Already so is success, so each may be repeated."""
    match action:
        case AddRole(role):
            method, request = "RoleAdd", etcd_proto.AuthRoleAddRequest(name=role)
        case Permit(role, one):
            permission = etcd_proto.Permission(permType=one.kind, key=one.key, range_end=one.range_end)
            method = "RoleGrantPermission"
            request = etcd_proto.AuthRoleGrantPermissionRequest(name=role, perm=permission)
        case Forbid(role, one):
            method = "RoleRevokePermission"
            request = etcd_proto.AuthRoleRevokePermissionRequest(role=role, key=one.key, range_end=one.range_end)
        case AddUser(user):
            options = etcd_proto.UserAddOptions(no_password=True)
            method, request = "UserAdd", etcd_proto.AuthUserAddRequest(name=user, options=options)
        case GiveRole(user, role):
            method, request = "UserGrantRole", etcd_proto.AuthUserGrantRoleRequest(user=user, role=role)
        case TakeRole(user, role):
            method, request = "UserRevokeRole", etcd_proto.AuthUserRevokeRoleRequest(name=user, role=role)
    try:
        # repeated like a read: every one of these is idempotent
        await store.members.read(f"/etcdserverpb.Auth/{method}", request)
    except (Conflict, NotFound) as error:
        _require("already exists" if isinstance(action, (AddRole, AddUser)) else "not granted", error)


def _require(said: str, error: Conflict | NotFound) -> None:
    if said not in error.why:
        raise error
