"""No address is given out while anybody may still send to its last owner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import zip_longest
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lain_deployd.agent.addresses import AddressBook, Named, applied_by_all, usable
from lain_deployd.agent.blocks import Blocks, candidates
from lain_deployd.agent.disk import Disk
from lain_deployd.agent.execute import Executor
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.loops import Surroundings
from lain_deployd.agent.metrics import AgentMetrics
from lain_deployd.testing import FakeEngine
from lain_shared import keys
from lain_shared.mirror import Mirror
from lain_shared.model.pod import Assignment
from lain_shared.model.route import Endpoint, Endpoints, RouterMember, RouterState
from lain_shared.records import Records, Stored
from lain_shared.store import Entry
from lain_shared.testing import MemoryStore

BLOCK = "172.20.1.0/29"
QUARANTINE = 60.0


def free(book: AddressBook, now: float, applied: float = math.inf) -> tuple[str, ...]:
    return book.free(now=now, quarantine_seconds=QUARANTINE, applied_revision=applied)


def test_the_networks_the_bridges_and_the_broadcast_address_are_nobodys() -> None:
    assert [str(one) for one in usable(BLOCK)] == ["172.20.1.2", "172.20.1.3", "172.20.1.4", "172.20.1.5", "172.20.1.6"]
    assert len(usable("172.20.1.0/24")) == 253


def test_what_was_never_used_comes_first_then_what_rested_longest() -> None:
    book = AddressBook(BLOCK)
    book = book.seen(used={"172.20.1.2", "172.20.1.4"}, named=(), revision=1, now=0.0)
    book = book.seen(used={"172.20.1.2"}, named=(), revision=1, now=10.0)
    book = book.seen(used=(), named=(), revision=1, now=20.0)
    assert free(book, 30.0) == ("172.20.1.3", "172.20.1.5", "172.20.1.6")
    assert free(book, 90.0)[-2:] == ("172.20.1.4", "172.20.1.2")


def test_a_named_address_is_not_free_and_routers_must_have_seen_it_go() -> None:
    book = AddressBook(BLOCK).seen(used={"172.20.1.2"}, named={"172.20.1.2"}, revision=50, now=0.0)
    book = book.seen(used=(), named={"172.20.1.2"}, revision=60, now=10.0)
    assert "172.20.1.2" not in free(book, 1_000.0)
    book = book.seen(used=(), named=(), revision=70, now=1_000.0)
    assert "172.20.1.2" not in free(book, 1_059.0)
    assert "172.20.1.2" not in free(book, 1_060.0, applied=69)
    assert "172.20.1.2" in free(book, 1_060.0, applied=70)


def test_what_routers_never_knew_waits_for_none_of_them() -> None:
    """A pod without a port: a member that says nothing holds nothing of it."""
    one = {"172.20.1.2"}
    book = AddressBook(BLOCK).seen(used=one, named=(), quiet=one, revision=50, now=0.0)
    book = book.seen(used=(), named=(), revision=60, now=10.0)
    assert "172.20.1.2" in free(book, 100.0, applied=-1)


def test_what_had_a_port_may_have_been_named_while_nobody_looked() -> None:
    book = AddressBook(BLOCK).seen(used={"172.20.1.2"}, named=(), revision=50, now=0.0)
    book = book.seen(used=(), named=(), revision=60, now=10.0)  # named and dropped between the two looks
    assert "172.20.1.2" not in free(book, 100.0, applied=59)
    assert book.held_for(59, now=100.0, quarantine_seconds=QUARANTINE) == 1
    assert book.held_for(60, now=100.0, quarantine_seconds=QUARANTINE) == 0
    assert "172.20.1.2" in free(book, 100.0, applied=60)


@pytest.mark.parametrize("bad", [False, True])
async def test_why_addresses_run_short_is_said(bad: bool) -> None:
    """A router that lags is named; a record of endpoints that cannot be read may name any address."""
    store = MemoryStore()
    await Records(store, keys.ROUTER_MEMBERS, RouterMember).put(RouterMember("r1", "n9", 0.0), "r1")
    if bad:
        await store.put(keys.ENDPOINTS.key("hello", "web"), b'{"v": 99}')
    assignments = Mirror(Records(store, keys.ASSIGN, Assignment))
    endpoints = Mirror(Records(store, keys.ENDPOINTS, Endpoints))
    members = Mirror(Records(store, keys.ROUTER_MEMBERS, RouterMember))
    routers = Mirror(Records(store, keys.ROUTERS, RouterState))
    for mirror in (assignments, endpoints, members, routers):
        await mirror.catch_up()
    engine, now = FakeEngine(), [1_000.0]
    blocks = Blocks(store, engine, "n1", remembered=BLOCK)
    blocks.network_ready = True
    around = Surroundings(
        Keeper("n1", engine, cast("Executor", None), Disk(Path("/nonexistent/agent.json")), AgentMetrics()),
        assignments=assignments, endpoints=endpoints, members=members, routers=routers, blocks=blocks,
        quarantine_seconds=QUARANTINE, clock=lambda: now[0],
    )  # fmt: skip
    book = around.look_around(AddressBook(BLOCK), {"172.20.1.2", "172.20.1.3"}, {"172.20.1.3"})
    book = around.look_around(book, (), ())
    now[0] += 100.0
    if bad:
        assert around.free(book) == ()
        assert "/lain/endpoints/hello/web cannot be read" in around.problems(book)[0]
        return
    assert "172.20.1.3" in around.free(book) and "172.20.1.2" not in around.free(book)
    assert around.problems(book) == ("router r1 holds 1 addresses: it has not said that it no longer sends to them",)
    state = RouterState("r1", endpoints.revision, "boot", 0.0)
    await Records(store, keys.ROUTERS, RouterState).put(state, "r1")
    await routers.catch_up()
    assert "172.20.1.2" in around.free(book) and around.problems(book) == ()


def test_a_clock_set_back_a_little_does_not_shorten_the_rest() -> None:
    book = AddressBook(BLOCK).seen(used={"172.20.1.2"}, named=(), revision=1, now=100.0)
    book = book.seen(used=(), named=(), revision=1, now=200.0)
    assert "172.20.1.2" not in free(book, 170.0)


def test_addresses_of_other_blocks_are_not_ours_to_note() -> None:
    book = AddressBook(BLOCK).seen(used={"172.20.2.2"}, named={"172.20.3.3"}, revision=1, now=0.0)
    assert book == AddressBook(BLOCK)


def test_a_member_that_says_nothing_may_be_arbitrarily_old() -> None:
    members = [RouterMember("r1", "n1", 0.0), RouterMember("r2", "n2", 0.0)]
    states = {"r1": RouterState("r1", 70, "boot", 0.0)}
    assert applied_by_all(members, states) == -1
    states["r2"] = RouterState("r2", 60, "boot", 0.0)
    assert applied_by_all(members, states) == 60
    assert applied_by_all([], states) == math.inf


ADDRESSES = st.sampled_from(["172.20.1.2", "172.20.1.3", "172.20.1.6", "172.20.2.2", "nonsense", ""])
ENDPOINTS = st.builds(
    lambda ready, suspect, draining: Endpoints(
        "a", "web", 80, ready=tuple(Endpoint(1, 1, one) for one in ready),
        suspect=tuple(Endpoint(2, 1, one) for one in suspect), draining=tuple(Endpoint(3, 1, one) for one in draining),
    ),
    st.lists(ADDRESSES, max_size=2), st.lists(ADDRESSES, max_size=2), st.lists(ADDRESSES, max_size=2),
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from("abc"), ENDPOINTS)), st.lists(st.booleans()))
def test_every_address_of_the_block_that_endpoints_name_counts(
    pictures: list[dict[str, Endpoints]], elsewhere: list[bool]
) -> None:
    """Whichever way it came to be: kept up to date by what changed, it is what a look at everything finds."""
    named, known = Named(), dict[str, Stored[Endpoints]]()
    for picture, moved in zip_longest(pictures, elsewhere[: len(pictures)]):
        known = {
            key: known[key] if key in known and known[key].value == one else Stored(one, Entry(key, b"", 1, 1))
            for key, one in picture.items()
        }
        block = "172.20.2.0/29" if moved else BLOCK
        network = IPv4Network(block)
        valid = {address for one in picture.values() for address in one.addresses if address.startswith("172")}
        assert named.within(block, known) == {one for one in valid if IPv4Address(one) in network}


def test_of_thousands_of_endpoints_only_what_changed_is_looked_at() -> None:
    """Every agent hears of every change in the cluster."""

    class Told(Endpoints):
        looked = 0

        @property
        def addresses(self) -> frozenset[str]:
            Told.looked += 1
            return frozenset({"172.20.1.2"})

    def stored(key: str) -> Stored[Endpoints]:
        return Stored(Told("a", "web", 80), Entry(key, b"", 1, 1))

    named, known = Named(), {str(n): stored(str(n)) for n in range(1_000)}
    named.within(BLOCK, known)
    assert Told.looked == 1_000
    assert named.within(BLOCK, {**known, "7": stored("7")}) == {"172.20.1.2"} and Told.looked == 1_001


def test_blocks_are_the_first_free_and_never_overlap() -> None:
    assert candidates("172.20.0.0/16", ())[0] == "172.20.1.0/24"
    assert candidates("172.20.0.0/16", ["172.20.1.0/24", "172.20.2.0/23"])[0] == "172.20.4.0/24"
    assert len(candidates("172.20.0.0/16", ())) == 256
    assert candidates("10.0.0.0/24", ()) == ["10.0.0.0/24"]
    assert candidates("10.0.0.0/24", ["10.0.0.0/25"]) == []
    assert candidates("10.0.0.0/26", ()) == ["10.0.0.0/26"]


@dataclass
class Owner:
    """A pod that has an address, and who knows it."""

    address: str
    named: bool = False


class AddressLife(RuleBasedStateMachine):
    """Pods come and go, the leader names and drops addresses, routers lag: a reused address is known to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.book = AddressBook(BLOCK)
        self.now, self.revision, self.applied = 0.0, 1, 1
        self.pods: list[Owner] = []
        self.named: set[str] = set()
        self.left_at: dict[str, float] = {}
        self.dropped_at: dict[str, int] = {}
        self.look()

    def look(self) -> None:
        used = {pod.address for pod in self.pods}
        self.book = self.book.seen(used=used, named=self.named, revision=self.revision, now=self.now)

    @rule(seconds=st.floats(0.1, 50.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    @rule()
    def a_pod_comes(self) -> None:
        offered = free(self.book, self.now, self.applied)
        if not offered:
            return
        address = offered[0]
        assert address not in {pod.address for pod in self.pods} and address not in self.named
        assert self.now - self.left_at.get(address, -math.inf) >= QUARANTINE
        assert self.dropped_at.get(address, 0) <= self.applied, "a router may still send to its last owner"
        self.pods.append(Owner(address))
        self.look()

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def the_leader_names_one(self, data: st.DataObject) -> None:
        self.revision += 1
        self.named.add(data.draw(st.sampled_from(self.pods)).address)
        self.look()

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def a_pod_goes(self, data: st.DataObject) -> None:
        pod = data.draw(st.sampled_from(self.pods))
        self.pods.remove(pod)
        self.left_at[pod.address] = self.now
        self.look()

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def the_leader_drops_one(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.named)))
        self.named.remove(address)
        self.revision += 1
        self.dropped_at[address] = self.revision
        self.left_at[address] = self.now
        self.look()

    @rule()
    def routers_catch_up(self) -> None:
        self.applied = self.revision

    @invariant()
    def an_address_has_one_owner(self) -> None:
        addresses = [pod.address for pod in self.pods]
        assert len(set(addresses)) == len(addresses)


TestAddressLife = AddressLife.TestCase
TestAddressLife.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
