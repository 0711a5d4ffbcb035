"""The plan: who is routed where, who is quarantined, what is held back. Pure, by table and by property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lain_shared import keys
from lain_shared.model.route import Endpoint, Endpoints, ProxyOptions, Route
from lain_shared.records import Stored
from lain_shared.store import Entry
from lain_watcher.router import TOLD_APPS, TOLD_CHARACTERS, briefly
from lain_watcher.routes import GUARD_SECONDS, Guard, Picture, Verdict, plan
from lain_watcher.table import Certificate, Table, decode, encode


def record(
    app: str, *routes: Route | str, ready: tuple[str, ...] = ("10.0.0.1",), proc: str = "web", **more: Any
) -> Endpoints:
    made = tuple(route if isinstance(route, Route) else Route(*split(route)) for route in routes)
    endpoints = tuple(Endpoint(number + 1, 7, address) for number, address in enumerate(ready))
    return Endpoints(app, proc, more.pop("port", 8000), made, ready=endpoints, **more)


def split(route: str) -> tuple[str, str]:
    host, slash, path = route.partition("/")
    return host, slash + path or "/"


def picture(*records: Endpoints, revision: int = 100, bad: Mapping[str, str] | None = None, **more: Any) -> Picture:
    """Records in the order in which they were created."""
    stored = {}
    for number, each in enumerate(records):
        key = keys.ENDPOINTS.key(each.app, each.proc)
        stored[key] = Stored(each, Entry(key, b"", create_revision=number + 1, mod_revision=number + 1))
    return Picture(revision, stored, bad or {}, **more)


def owners(table: Table) -> dict[str, str]:
    return {str(route): entry.app for entry in table.procs.values() for route in entry.routes}


def test_a_record_becomes_an_entry() -> None:
    options = ProxyOptions(read_timeout_seconds=5, buffering=False)
    more = replace(
        record("hello", "hello.example/x", ready=("10.0.0.2", "10.0.0.1"), proxy=options, release=3),
        suspect=(Endpoint(3, 7, "10.0.0.3"),),
        draining=(Endpoint(1, 6, "10.0.0.4", port=9000),),
    )
    verdict = plan(picture(more), None, now=0.0)
    entry = verdict.table.procs["hello", "web"]
    assert entry.ready == ("10.0.0.2:8000", "10.0.0.1:8000")
    assert (entry.suspect, entry.draining) == (("10.0.0.3:8000",), ("10.0.0.4",))
    assert (entry.options, entry.release, entry.routes) == (options, 3, (Route("hello.example", "/x"),))
    assert (verdict.quarantined, verdict.not_applied, verdict.guard) == ({}, (), None)
    assert verdict.table.revision == 100


def test_an_endpoint_may_have_a_port_of_its_own() -> None:
    own = replace(record("a", "a.example"), ready=(Endpoint(1, 7, "10.0.0.1", 9000), Endpoint(2, 7, "10.0.0.2")))
    assert plan(picture(own), None, now=0.0).table.procs["a", "web"].ready == ("10.0.0.1:9000", "10.0.0.2:8000")


@pytest.mark.parametrize(
    ("route", "says"),
    [
        (Route('"; return 200 evil;'), "is not a host name"),
        (Route("UPPER.example"), "is not a host name"),
        (Route("a..example"), "is not a host name"),
        (Route("-a.example"), "is not a host name"),
        (Route("a.*.example"), "is not a host name"),
        (Route("a.example:80"), "is not a host name"),
        (Route("a.example\n"), "is not a host name"),
        (Route("x" * 64 + ".example"), "is not a host name"),
        (Route(""), "is not a host name"),
        (Route("a.example", "/x/"), "is not a path"),
        (Route("a.example", "x"), "is not a path"),
        (Route("a.example", "/x//y"), "is not a path"),
        (Route("a.example", "/x/../y"), "is not a path"),
        (Route("a.example", "/x y"), "is not a path"),
        (Route("a.example", "/x;}\n"), "is not a path"),
        (Route("a.example", ""), "is not a path"),
        (Route("a.example", "/" + "x" * 2000), "is not a path"),
    ],
)
def test_a_bad_route_freezes_its_app_and_nobody_else(route: Route, says: str) -> None:
    """R6: quarantined at the last good routes; addresses go on changing; others are updated."""
    good = plan(picture(record("bad", "bad.example"), record("other", "other.example")), None, now=0.0)
    worse = picture(record("bad", route, "new.example", ready=("10.0.0.9",)), record("other", "other2.example"))
    verdict = plan(worse, good.table, now=1.0)
    assert owners(verdict.table) == {"bad.example": "bad", "other2.example": "other"}
    assert verdict.table.procs["bad", "web"].ready == ("10.0.0.9:8000",)
    assert list(verdict.quarantined) == ["bad"]
    assert says in verdict.quarantined["bad"]
    assert verdict.not_applied == ()
    fixed = plan(picture(record("bad", "new.example"), record("other", "other2.example")), verdict.table, now=2.0)
    assert owners(fixed.table) == {"new.example": "bad", "other2.example": "other"}
    assert fixed.quarantined == {}


@pytest.mark.parametrize("host", ["a.example", "*.a.example", "a", "xn--e1afmkfd.example", "a-b.c--d.example"])
@pytest.mark.parametrize("path", ["/", "/x", "/x/y", "/a.b/c-d_~!$&'()*+,;=:@%41"])
def test_good_routes_pass(host: str, path: str) -> None:
    assert plan(picture(record("a", Route(host, path))), None, now=0.0).quarantined == {}


def test_bad_options_freeze_options_and_routes_together() -> None:
    good = plan(picture(record("a", "a.example", proxy=ProxyOptions(read_timeout_seconds=9))), None, now=0.0)
    worse = picture(record("a", "b.example", proxy=ProxyOptions(read_timeout_seconds=0, max_body_bytes=-1)))
    verdict = plan(worse, good.table, now=1.0)
    entry = verdict.table.procs["a", "web"]
    assert (entry.routes, entry.options) == ((Route("a.example"),), ProxyOptions(read_timeout_seconds=9))
    assert "read_timeout_seconds" in verdict.quarantined["a"]
    assert "max_body_bytes" in verdict.quarantined["a"]


def test_an_app_freezes_as_a_whole() -> None:
    """A route that moves between two procs of a quarantined app must not vanish or double."""
    good = plan(picture(record("a", "a.example"), record("a", proc="api")), None, now=0.0)
    moved = picture(record("a"), record("a", "a.example", Route("bad host"), proc="api"))
    verdict = plan(moved, good.table, now=1.0)
    assert verdict.table.procs["a", "web"].routes == (Route("a.example"),)
    assert verdict.table.procs["a", "api"].routes == ()


@pytest.mark.parametrize(
    "address", ["", "10.0.0", "10.0.0.1:80", "::1", "localhost", "0.0.0.0", "224.0.0.1", "10.0.0.1; x"]
)
def test_addresses_that_cannot_be_used_are_not_applied_and_the_old_ones_stay(address: str) -> None:
    good = plan(picture(record("a", "a.example"), record("b", "b.example")), None, now=0.0)
    verdict = plan(picture(record("a", "a.example", ready=(address,)), record("b", "b.example")), good.table, now=1.0)
    assert verdict.not_applied == ("a",)
    assert verdict.table.procs["a", "web"].ready == ("10.0.0.1:8000",)
    assert "a" in verdict.quarantined
    assert verdict.table.procs["b", "web"].ready == ("10.0.0.1:8000",)


def test_a_bad_port_is_a_bad_address() -> None:
    assert plan(picture(record("a", "a.example", port=0)), None, now=0.0).not_applied == ("a",)


def test_an_unreadable_record_keeps_what_was_known_of_its_proc() -> None:
    good = plan(picture(record("a", "a.example"), record("b", "b.example")), None, now=0.0)
    verdict = plan(
        picture(record("b", "b.example"), bad={keys.ENDPOINTS.key("a", "web"): "not JSON"}), good.table, now=1.0
    )
    assert owners(verdict.table) == {"a.example": "a", "b.example": "b"}
    assert verdict.not_applied == ("a",)
    assert "not JSON" in verdict.quarantined["a"]
    fresh = plan(picture(record("b", "b.example"), bad={keys.ENDPOINTS.key("a", "web"): "not JSON"}), None, now=1.0)
    assert owners(fresh.table) == {"b.example": "b"}


def test_a_record_that_says_it_is_another_app_touches_nobody() -> None:
    """Its key says whose it is."""
    victim, impostor = record("hello", "hello.example"), record("hello", "evil.example", ready=("10.6.6.6",))
    here = picture(victim)
    key = keys.ENDPOINTS.key("impostor", "web")
    stored = Stored(impostor, Entry(key, b"", create_revision=2, mod_revision=2))
    verdict = plan(replace(here, endpoints={**here.endpoints, key: stored}), None, now=0.0)
    assert verdict.table == plan(here, None, now=0.0).table
    assert verdict.not_applied == ("impostor",)
    assert "says that it is hello.web" in verdict.quarantined["impostor"]


def test_what_is_said_of_bad_data_is_not_as_large_as_the_data() -> None:
    verdict = plan(picture(record("hello", "h" * 100_000, ready=("9" * 100_000,))), None, now=0.0)
    assert len(verdict.quarantined["hello"]) < 500


def test_what_is_published_of_the_quarantined_stays_small() -> None:
    quarantined = {f"app-{number:05}": "x" * 1000 for number in range(10_000)}
    told = briefly(quarantined)
    assert len(told) == TOLD_APPS and sum(map(len, told.values())) <= TOLD_APPS * TOLD_CHARACTERS
    assert briefly({"hello": "why"}) == {"hello": "why"}


def test_the_older_claim_keeps_a_route() -> None:
    """R5: the newer app loses that route only, and it is told who has it."""
    verdict = plan(picture(record("old", "x.example"), record("new", "x.example", "y.example")), None, now=0.0)
    assert owners(verdict.table) == {"x.example": "old", "y.example": "new"}
    assert "x.example belongs to old" in verdict.quarantined["new"]
    gone = plan(picture(record("new", "x.example", "y.example")), verdict.table, now=1.0)
    assert owners(gone.table) == {"x.example": "new", "y.example": "new"}
    assert gone.quarantined == {}


def test_a_frozen_route_yields_to_a_living_claim() -> None:
    good = plan(picture(record("frozen", "x.example")), None, now=0.0)
    verdict = plan(picture(record("frozen", Route("no host")), record("new", "x.example")), good.table, now=1.0)
    assert owners(verdict.table) == {"x.example": "new"}


def test_certificates_and_settings_come_along() -> None:
    held = {"a.example": Certificate("a.example", "CHAIN", "KEY")}
    table = plan(
        picture(record("a", "a.example"), certificates=held, domains=("lain",), https_port=8443), None, now=0.0
    ).table
    assert (table.certificates, table.domains, table.https_port) == (held, ("lain",), 8443)


# --- the guard ----------------------------------------------------------------------------------------------------------


def cluster(count: int, *, first: int = 0, address: str = "10.0.0.1", revision: int = 100) -> Picture:
    return picture(
        *(record(f"a{n}", f"a{n}.example", ready=(address,)) for n in range(first, count)), revision=revision
    )


def test_an_empty_snapshot_is_held_for_a_minute() -> None:
    """R12: config kept, revision kept (so that nothing counts as removed), then believed."""
    before = plan(cluster(10), None, now=0.0).table
    held = plan(picture(revision=200), before, now=10.0)
    assert held.table.hosts == before.hosts
    assert held.table.procs == before.procs
    assert held.table.revision == 100
    assert held.guard == Guard(10.0, tuple(sorted(before.hosts)))
    assert len(held.not_applied) == 10
    still = plan(picture(revision=201), held.table, now=10.0 + GUARD_SECONDS - 1, guard=held.guard)
    assert still.table.hosts == before.hosts
    believed = plan(picture(revision=202), still.table, now=10.0 + GUARD_SECONDS, guard=still.guard)
    assert (believed.table.hosts, believed.table.revision, believed.guard) == (frozenset(), 202, None)


def test_an_operator_may_accept_the_loss_at_once() -> None:
    before = plan(cluster(10), None, now=0.0).table
    held = plan(picture(revision=200), before, now=10.0)
    accepted = plan(picture(revision=200), held.table, now=11.0, guard=held.guard, accept_loss=True)
    assert (accepted.table.hosts, accepted.table.revision, accepted.guard) == (frozenset(), 200, None)


def test_while_held_the_others_go_on() -> None:
    before = plan(cluster(10), None, now=0.0).table
    verdict = plan(cluster(10, first=7, address="10.0.0.9", revision=200), before, now=10.0)
    assert verdict.table.hosts == before.hosts
    assert verdict.table.procs["a9", "web"].ready == ("10.0.0.9:8000",)
    assert verdict.table.procs["a0", "web"].ready == ("10.0.0.1:8000",)
    back = plan(cluster(10, revision=201), verdict.table, now=11.0, guard=verdict.guard)
    assert (back.guard, back.table.revision, back.not_applied) == (None, 201, ())


def test_a_proc_that_lost_its_routes_keeps_its_new_addresses_while_held() -> None:
    before = plan(cluster(4), None, now=0.0).table
    now = picture(*(record(f"a{n}", ready=("10.0.0.9",)) for n in range(4)), revision=200)
    held = plan(now, before, now=10.0)
    assert held.table.hosts == before.hosts
    assert held.table.procs["a0", "web"].ready == ("10.0.0.9:8000",)


@pytest.mark.parametrize(
    ("had", "left", "held"), [(3, 0, False), (4, 2, False), (4, 1, True), (5, 3, False), (100, 49, True)]
)
def test_only_more_than_half_of_at_least_four_hosts_is_sudden(had: int, left: int, held: bool) -> None:
    before = plan(cluster(had), None, now=0.0).table
    assert (plan(cluster(left, revision=200), before, now=1.0).guard is not None) is held


def test_a_route_given_twice_and_not_alike_is_bad_data() -> None:
    routes = (Route("a.example", "/", False), Route("a.example", "/", True))
    verdict = plan(picture(record("one", *routes, proc="web")), None, now=0.0)
    assert verdict.table.procs["one", "web"].routes == ()
    assert "given twice" in verdict.quarantined["one"]


# --- properties ---------------------------------------------------------------------------------------------------------

hosts = st.sampled_from(["a.example", "b.example", "*.b.example", "bad host", "c.example"])
paths = st.sampled_from(["/", "/x", "/x/y", "/bad/", "//"])
addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "nonsense"])
records = st.builds(
    lambda app, proc, routes, ready, timeout: record(
        app, *routes, proc=proc, ready=tuple(ready), proxy=ProxyOptions(read_timeout_seconds=timeout)
    ),
    st.sampled_from(["one", "two", "three"]),
    st.sampled_from(["web", "api"]),
    st.lists(st.builds(Route, hosts, paths, st.booleans()), max_size=4),
    st.lists(addresses, max_size=3),
    st.sampled_from([None, 5, 0]),
)
pictures = st.lists(records, max_size=6, unique_by=lambda each: (each.app, each.proc)).map(
    lambda found: picture(*found)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(pictures, min_size=1, max_size=5))
def test_whatever_comes_one_route_has_one_owner_and_only_good_data_gets_through(sequence: list[Picture]) -> None:
    verdict = Verdict(Table(0))
    for now, each in enumerate(sequence):
        verdict = plan(each, verdict.table, now=float(now), guard=verdict.guard)
        routes = [(route.host, route.path) for entry in verdict.table.procs.values() for route in entry.routes]
        assert len(routes) == len(set(routes))
        for entry in verdict.table.procs.values():
            assert all("bad" not in route.host and route.path in ("/", "/x", "/x/y") for route in entry.routes)
            assert entry.options.read_timeout_seconds in (None, 5)
            assert all("nonsense" not in peer for peer in entry.ready)
        for stored in each.endpoints.values():
            wanted = stored.value
            if wanted.app not in verdict.not_applied:
                got = verdict.table.procs[wanted.app, wanted.proc].ready
                assert got == tuple(f"{endpoint.address}:8000" for endpoint in wanted.ready), "addresses never freeze"


@settings(deadline=None, max_examples=60)
@given(pictures)
def test_a_good_picture_gives_the_same_table_whatever_was_before(each: Picture) -> None:
    fresh = plan(each, None, now=0.0)
    if not fresh.quarantined:
        again = plan(each, fresh.table, now=1.0)
        assert again == fresh
    assert decode(encode(fresh.table).text) == fresh.table
