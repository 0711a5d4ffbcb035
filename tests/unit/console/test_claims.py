"""Who owns a name: planning claims, settling them, and that the two agree whatever was there before."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from lain_console.operations.claims import ClaimPlan, clashes, plan_claims, routes_of, settle, surplus
from lain_console.state import Claims
from lain_shared import keys
from lain_shared.model.pod import Desired
from lain_shared.model.route import HostClaim, RouteClaim
from lain_shared.records import Stored
from lain_shared.store import Delete, Entry, ModRevision, Put, Write
from tests.unit.console.builders import proc, web


def claims_of(hosts: Iterable[HostClaim] = (), routes: Iterable[RouteClaim] = ()) -> Claims:
    return Claims(
        {claim.host: Stored(claim, Entry(keys.HOSTS.key(claim.host), b"", 1, 7)) for claim in hosts},
        {(c.host, c.path): Stored(c, Entry(keys.ROUTES.key(c.host, c.path), b"", 1, 9)) for c in routes},
    )


def written(writes: Iterable[Write]) -> dict[str, str]:
    return {write.key.removeprefix(keys.ROOT): "put" if isinstance(write, Put) else "delete" for write in writes}


def test_a_free_host_is_claimed_and_its_absence_expected() -> None:
    plan = plan_claims("hello", [web(1, "a.org/x")], Claims(), defaults=("hello.lain",))
    assert plan.refusals == ()
    assert written(plan.writes) == {"hosts/a.org": "put", "routes/a.org/%2Fx": "put"}
    assert set(plan.expectations) == {
        ModRevision(keys.HOSTS.key("a.org"), 0),
        ModRevision(keys.ROUTES.key("a.org", "/x"), 0),
    }


def test_a_default_host_is_claimed_as_such() -> None:
    plan = plan_claims("hello", [web(1, "hello.lain")], Claims(), defaults=("hello.lain",))
    host = next(write for write in plan.writes if isinstance(write, Put) and "hosts" in write.key)
    assert b'"default":true' in host.value


def test_what_is_ours_already_is_only_expected_to_stay() -> None:
    claims = claims_of([HostClaim("a.org", "hello")], [RouteClaim("a.org", "/", "hello", "web")])
    plan = plan_claims("hello", [web(1, "a.org")], claims)
    assert (plan.refusals, plan.writes) == ((), ())
    assert {each.revision for each in plan.expectations if isinstance(each, ModRevision)} == {7, 9}


def test_a_route_that_moves_to_another_proc_of_ours_is_rewritten() -> None:
    claims = claims_of([HostClaim("a.org", "hello")], [RouteClaim("a.org", "/", "hello", "api")])
    assert written(plan_claims("hello", [web(1, "a.org")], claims).writes) == {"routes/a.org/%2F": "put"}


def test_anothers_host_and_anothers_path_are_refused_by_name() -> None:
    foreign = claims_of([HostClaim("a.org", "shop")])
    assert [each.message for each in plan_claims("hello", [web(1, "a.org")], foreign).refusals] == [
        "a.org belongs to app 'shop'"
    ]
    guest = claims_of([HostClaim("a.org", "shop", ("hello",))], [RouteClaim("a.org", "/x", "shop", "web")])
    assert plan_claims("hello", [web(1, "a.org/y")], guest).refusals == ()
    assert [each.message for each in plan_claims("hello", [web(1, "a.org/x")], guest).refusals] == [
        "a.org/x belongs to app 'shop'"
    ]


def test_two_procs_of_one_release_cannot_share_a_path() -> None:
    other = proc("api", 1, routes=web(1, "a.org").routes)
    assert [each.code for each in clashes([web(1, "a.org"), other])] == ["route_clash"]
    assert clashes([web(1, "a.org"), web(1, "a.org")]) == ()


def test_a_host_stays_while_a_guest_is_on_it_or_it_is_a_default() -> None:
    claims = claims_of(
        [HostClaim("guest.org", "hello", ("shop",)), HostClaim("hello.lain", "hello", default=True), HostClaim("gone.org", "hello")],
        [RouteClaim("guest.org", "/shop", "shop", "web"), RouteClaim("gone.org", "/", "hello", "web"),
         RouteClaim("hello.lain", "/", "hello", "web")],
    )  # fmt: skip
    assert written(settle("hello", {}, claims).writes) == {
        "routes/gone.org/%2F": "delete",
        "routes/hello.lain/%2F": "delete",
        "hosts/gone.org": "delete",
    }
    assert [(each.host, each.path) for each in surplus("hello", {}, claims)] == [("gone.org", "/"), ("hello.lain", "/")]


def test_a_guest_changes_the_host_it_comes_to_and_its_owner_gives_back_only_what_it_has_seen() -> None:
    shared = claims_of([HostClaim("a.org", "hello", ("shop",))], [RouteClaim("a.org", "/", "hello", "web")])
    coming = plan_claims("shop", [web(1, "a.org/shop")], shared)
    assert written(coming.writes) == {"hosts/a.org": "put", "routes/a.org/%2Fshop": "put"}
    assert ModRevision(keys.HOSTS.key("a.org"), 7) in coming.expectations
    leaving = settle("hello", {}, shared)
    assert written(leaving.writes) == {"hosts/a.org": "delete", "routes/a.org/%2F": "delete"}
    assert set(leaving.expectations) == {
        ModRevision(keys.HOSTS.key("a.org"), 7),
        ModRevision(keys.ROUTES.key("a.org", "/"), 9),
    }
    moved = settle("hello", {("a.org", "/"): "api", ("a.org", "/new"): "api"}, shared)
    assert set(moved.expectations) == {
        ModRevision(keys.ROUTES.key("a.org", "/"), 9),
        ModRevision(keys.ROUTES.key("a.org", "/new"), 0),
    }


def test_a_guest_that_is_there_already_leaves_the_host_alone() -> None:
    there = claims_of([HostClaim("a.org", "hello", ("shop",))], [RouteClaim("a.org", "/shop", "shop", "web")])
    assert plan_claims("shop", [web(1, "a.org/shop")], there).writes == ()


def test_a_claim_that_cannot_be_read_is_taken() -> None:
    claims = Claims(
        {"mine.org": claims_of([HostClaim("mine.org", "hello")]).hosts["mine.org"]},
        {},
        frozenset({"bad.org"}),
        frozenset({("mine.org", "/bad")}),
    )
    plan = plan_claims("hello", [web(1, "bad.org", "mine.org/bad")], claims)
    assert [(each.code, each.message) for each in plan.refusals] == [
        ("claim_unreadable", "bad.org is taken, and by whom cannot be read"),
        ("claim_unreadable", "mine.org/bad is taken, and by whom cannot be read"),
    ]
    assert settle("hello", {}, claims) == ClaimPlan(), "the host stays: somebody has a path on it"
    assert settle("hello", {("mine.org", "/bad"): "web"}, claims).writes == (), "it is not overwritten"


HOSTS = st.sampled_from(["a.org", "b.org", "c.org"])
PATHS = st.sampled_from(["", "/x", "/y"])
ROUTES = st.lists(st.builds(lambda host, path: host + path, HOSTS, PATHS), max_size=4, unique=True)


def apply(claims: Claims, writes: Iterable[Write]) -> Claims:
    hosts = {host: stored.value for host, stored in claims.hosts.items()}
    routes = {route: stored.value for route, stored in claims.routes.items()}
    for write in writes:
        family = keys.family_of(write.key)
        parts = family.parse(write.key)
        match write:
            case Delete() if family is keys.HOSTS:
                hosts.pop(parts[0], None)
            case Delete():
                routes.pop((parts[0], parts[1]), None)
            case Put(_, value) if family is keys.HOSTS:
                hosts[parts[0]] = msgspec.json.decode(value, type=HostClaim)
            case Put(_, value):
                routes[parts[0], parts[1]] = msgspec.json.decode(value, type=RouteClaim)
    return claims_of(hosts.values(), routes.values())


def procs_of(routes: list[str]) -> list[Desired]:
    return [web(1, *routes)] if routes else []


@given(mine=ROUTES, theirs=ROUTES, after=ROUTES)
def test_after_any_upgrade_each_app_claims_what_it_is_given_and_nothing_else(
    mine: list[str], theirs: list[str], after: list[str]
) -> None:
    claims = Claims()
    for app, routes in (("shop", theirs), ("hello", mine), ("hello", after)):
        plan = plan_claims(app, procs_of(routes), claims)
        if plan.refusals:
            continue
        claims = apply(claims, plan.writes)
        claims = apply(claims, settle(app, routes_of(procs_of(routes)), claims).writes)
        own = {route for route, stored in claims.routes.items() if stored.value.app == app}
        assert own == set(routes_of(procs_of(routes)))
        owners = {host: stored.value.owner for host, stored in claims.hosts.items()}
        assert {host for host, _ in own} <= owners.keys()
        assert settle(app, routes_of(procs_of(routes)), claims) == ClaimPlan(), "settled once is settled"
    for (host, _), stored in claims.routes.items():
        assert claims.hosts[host].value.owner == stored.value.app
