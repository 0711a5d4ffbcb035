"""The map of etcd: keys and their parts, who may write what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_shared import keys
from lain_shared.etcd_auth import Permission, permissions
from lain_shared.etcd_watch import range_end
from lain_shared.keys import FAMILIES, Family, Grant, family_of, grants, user_of

FAMILY = st.sampled_from(FAMILIES)


def encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


PARTS = st.text(min_size=1, max_size=30).filter(encodable)


@st.composite
def keyed(draw: st.DrawFn) -> tuple[Family, tuple[str, ...]]:
    family = draw(FAMILY)
    return family, tuple(draw(PARTS) for _ in family.parts)


@given(keyed())
def test_parse_is_the_reverse_of_key(given_key: tuple[Family, tuple[str, ...]]) -> None:
    family, parts = given_key
    key = family.key(*parts)
    assert family.parse(key) == parts
    assert family_of(key) is family
    assert key.startswith(family.prefix)
    assert key.isascii()


@given(keyed(), keyed())
def test_different_parts_have_different_keys(
    one: tuple[Family, tuple[str, ...]], other: tuple[Family, tuple[str, ...]]
) -> None:
    assert (one == other) == (one[0].key(*one[1]) == other[0].key(*other[1]))


@given(keyed())
def test_a_key_lies_under_its_first_parts_and_no_others(given_key: tuple[Family, tuple[str, ...]]) -> None:
    family, parts = given_key
    key = family.key(*parts)
    for count in range(len(parts)):
        assert key.startswith(family.under(*parts[:count]))
        assert not key.startswith(family.under(*parts[:count], "another-" + parts[count]))


@given(st.integers(0, 10**10 - 1), st.integers(0, 10**10 - 1))
def test_keys_sort_as_their_numbers(one: int, other: int) -> None:
    first, second = keys.RELEASES.key("app", one), keys.RELEASES.key("app", other)
    assert (one < other) == (first < second)
    assert int(keys.RELEASES.parse(first)[1]) == one


@given(keyed())
def test_no_prefix_of_a_family_catches_another(given_key: tuple[Family, tuple[str, ...]]) -> None:
    family, parts = given_key
    key = family.key(*parts).encode()
    for other in FAMILIES:
        prefix = other.prefix.encode()
        assert (prefix <= key < range_end(prefix)) == (other is family)


@pytest.mark.parametrize("key", ["", "/", "/lain/", "/lain/nodes", "/lain/nope/x", "lain/nodes/x", "/other/nodes/x"])
def test_a_foreign_key_belongs_to_no_family(key: str) -> None:
    if key != "/lain/nodes":
        with pytest.raises(ValueError, match="no key family"):
            family_of(key)
    with pytest.raises(ValueError, match="family nodes"):
        keys.NODES.parse(key)


def test_a_key_has_exactly_its_parts() -> None:
    with pytest.raises(ValueError, match="takes 2 parts"):
        keys.ASSIGN.key("n1")
    with pytest.raises(ValueError, match="cannot be empty"):
        keys.NODES.key("")
    with pytest.raises(ValueError, match="has 2 parts"):
        keys.NODES.parse("/lain/nodes/a/b")
    with pytest.raises(ValueError, match="empty part"):
        keys.DESIRED.parse("/lain/desired//web")


def test_families_are_declared_once() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == len(keys.BY_NAME)
    for family in FAMILIES:
        assert family.parts
        assert family.writers
        assert family.says
        assert "/" not in family.name


def test_a_family_has_one_writer_except_where_the_design_says_so() -> None:
    several = {family.name for family in FAMILIES if len(family.writers) > 1}
    assert several == {"leader", "router-members", "audit"}


# --- grants -----------------------------------------------------------------------------------------------------------


def covered(granted: tuple[Grant, ...], key: str, *, write: bool) -> bool:
    """Would etcd allow it? By the permissions that are really put there."""
    data = key.encode()

    def holds(one: Permission) -> bool:
        inside = data == one.key if not one.range_end else one.key <= data < one.range_end
        return inside and (not write or one.kind == 2)

    return any(holds(one) for one in permissions(granted))


@given(keyed(), st.sampled_from(keys.DAEMONS))
def test_a_daemon_is_granted_its_families_and_no_other(given_key: tuple[Family, tuple[str, ...]], daemon: str) -> None:
    family, parts = given_key
    granted = grants(daemon, "n1" if keys.is_per_node(daemon) else None)
    key = family.key(*parts)
    writes = daemon in family.writers
    if daemon in family.node_readers:
        assert covered(granted, key, write=False) == (parts[0] == "n1")
        assert covered(granted, family.key("n1", *parts[1:]), write=False)
        assert not covered(granted, family.key("n10", *parts[1:]), write=False)
    else:
        assert covered(granted, key, write=False) == (writes or daemon in family.readers)
    if family.per_node:
        assert covered(granted, key, write=True) == (writes and parts[0] == "n1")
        assert covered(granted, family.key("n1", *parts[1:]), write=True) == writes
        assert not covered(granted, family.key("n10", *parts[1:]), write=True)
    elif family in (keys.LEADER, keys.AUDIT):
        assert covered(granted, family.key(daemon, *parts[1:]), write=True) == writes
        assert covered(granted, key, write=True) == (writes and parts[0] == daemon)
    else:
        assert covered(granted, key, write=True) == writes


def test_users_are_told_apart_by_node() -> None:
    assert user_of(keys.CONSOLE) == "console"
    assert user_of(keys.AGENT, "n1") == "agent@n1"
    assert [daemon for daemon in keys.DAEMONS if keys.is_per_node(daemon)] == [keys.AGENT]


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_the_end_of_a_range_is_just_after_its_prefix(prefix: bytes, key: bytes) -> None:
    end = range_end(prefix)
    inside = key >= prefix and (end == b"\0" or key < end)
    assert inside == key.startswith(prefix)
