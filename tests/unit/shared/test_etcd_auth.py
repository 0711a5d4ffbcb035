"""The plan that brings etcd's users and roles to what the map of keys says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lain_shared import keys
from lain_shared.etcd_auth import (
    READ,
    READWRITE,
    ROOT_USER,
    Action,
    AddRole,
    AddUser,
    AuthState,
    Forbid,
    GiveRole,
    Permission,
    Permit,
    TakeRole,
    permissions,
    plan,
    wanted,
)

NAMES = st.sampled_from(["console", "deployd", "watcher", "agent@n1"])
RANGES = st.sampled_from([(b"a", b"b"), (b"a", b""), (b"c", b"d")])


@st.composite
def states(draw: st.DrawFn) -> AuthState:
    roles = {}
    for name in draw(st.sets(NAMES)):
        kinds = draw(st.dictionaries(RANGES, st.sampled_from([READ, READWRITE])))
        roles[name] = frozenset(Permission(key, end, kind) for (key, end), kind in kinds.items())
    users = {
        name: draw(st.frozensets(st.sampled_from(sorted(roles)))) if roles else frozenset()
        for name in draw(st.sets(NAMES))
    }
    return AuthState(roles, users)


def carry_out(state: AuthState, actions: tuple[Action, ...]) -> AuthState:
    """What etcd does: granting a range again replaces its kind."""
    roles = {role: {(one.key, one.range_end): one for one in has} for role, has in state.roles.items()}
    users = {user: set(has) for user, has in state.users.items()}
    for action in actions:
        match action:
            case AddRole(role):
                assert role not in roles
                roles[role] = {}
            case Permit(role, one):
                roles[role][one.key, one.range_end] = one
            case Forbid(role, one):
                del roles[role][one.key, one.range_end]
            case AddUser(user):
                assert user not in users
                users[user] = set()
            case GiveRole(user, role):
                assert role in roles
                users[user].add(role)
            case TakeRole(user, role):
                users[user].remove(role)
    return AuthState(
        {role: frozenset(has.values()) for role, has in roles.items()},
        {user: frozenset(has) for user, has in users.items()},
    )


@given(states(), states(), st.integers(0, 20))
def test_it_converges_though_it_dies_half_way(current: AuthState, target: AuthState, cut: int) -> None:
    target = AuthState(
        {**target.roles, **{role: target.roles.get(role, frozenset()) for role in target.users}}, target.users
    )
    halfway = carry_out(current, plan(current, target)[:cut])
    done = carry_out(halfway, plan(halfway, target))
    assert plan(done, target) == ()
    for role, has in target.roles.items():
        assert done.roles[role] == has
    for user, roles in target.users.items():
        assert done.users[user] == roles


@given(states(), states())
def test_what_it_does_not_know_it_leaves_alone(current: AuthState, target: AuthState) -> None:
    target = AuthState(
        {**target.roles, **{role: target.roles.get(role, frozenset()) for role in target.users}}, target.users
    )
    done = carry_out(current, plan(current, target))
    for role in current.roles.keys() - target.roles.keys():
        assert done.roles[role] == current.roles[role]
    for user in current.users.keys() - target.users.keys():
        assert done.users[user] == current.users[user]


def test_every_daemon_has_a_user_and_each_node_its_agent() -> None:
    state = wanted(["n1", "n2"])
    assert set(state.users) == {ROOT_USER, "console", "deployd", "watcher", "agent@n1", "agent@n2"}
    assert state.users["agent@n1"] == {"agent@n1"}
    assert set(state.roles) == set(state.users)


def test_writing_includes_reading_and_one_key_is_one_key() -> None:
    assert permissions(keys.grants("nobody")) == frozenset()
    granted = permissions(
        [keys.Grant("/a/", write=False), keys.Grant("/a/", write=True), keys.Grant("/b/c", write=True, exact=True)]
    )
    assert granted == {Permission(b"/a/", b"/a0", READWRITE), Permission(b"/b/c", b"", READWRITE)}
