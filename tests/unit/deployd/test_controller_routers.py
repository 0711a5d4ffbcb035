"""Routers and routes in a rollout: whose acknowledgement is waited for, how long an address drains, who owns a route meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lain_shared import keys
from lain_shared.model.route import Route, RouteClaim
from lain_shared.model.status import ProcPhase
from tests.unit.deployd.simulation import deployed, desired, template


def test_a_router_that_does_not_acknowledge_pauses_the_rollout_and_is_named() -> None:
    world = deployed(routers=2)
    world.routers["r2"].stuck = True
    world.want(desired(release=2, template=template("good2")))
    world.settle()
    status = world.status()
    assert status.phase is ProcPhase.PAUSED
    assert "r2" in status.message and "r1" not in status.message
    assert len([order for _, order in world.pods() if order.run]) == 3, "nothing is stopped"
    world.revive_router("r2")
    world.settle()
    assert world.status().phase is ProcPhase.STABLE


def test_a_router_that_is_away_is_waited_for_thirty_seconds() -> None:
    world = deployed(routers=2)
    world.kill_router("r2")
    world.one_pass()
    began = world.now
    world.want(desired(release=2, instances=1, template=template("good2")))
    while any(order.draining is False and order.template.image == "good" for _, order in world.pods()):
        world.one_pass(), world.agents(), world.step_routers()
        world.now += 0.05
    world.settle()
    assert world.now - began >= 30
    assert world.status().phase is ProcPhase.STABLE


def test_a_router_without_nginx_has_applied_what_its_nginx_would_start_from() -> None:
    world = deployed(routers=1)
    state = world.get(keys.ROUTERS, "r1")
    world.routers["r1"].stuck = True
    world.put(keys.ROUTERS.key("r1"), replace(state, boot_id=""))
    world.checking = False  # nobody is behind that router: it has no nginx
    world.want(desired(release=2, template=template("good2")))
    world.settle()
    assert world.status().phase is ProcPhase.PAUSED, "an nginx that starts now would send to pods that are gone"
    world.put(keys.ROUTERS.key("r1"), replace(state, boot_id="", applied_revision=10**6))
    world.settle()
    assert world.status().phase is ProcPhase.STABLE


def test_a_router_that_could_not_apply_the_app_holds_only_that_app() -> None:
    world = deployed()
    world.want(desired("other"))
    world.settle()
    world.routers["r1"].stuck = True
    state = world.get(keys.ROUTERS, "r1")
    world.put(keys.ROUTERS.key("r1"), replace(state, applied_revision=10**6, not_applied=("hello",)))
    world.checking = False
    for app in ("hello", "other"):
        world.want(desired(app, release=2, template=template("good2")))
    world.settle()
    assert world.status("hello").phase is ProcPhase.PAUSED
    assert world.status("other").phase is ProcPhase.STABLE


def test_a_busy_address_drains_for_drain_seconds_and_no_longer() -> None:
    world = deployed(instances=1, drain_seconds=60.0)
    world.routers["r1"].busy = {world.endpoints().ready[0].address}
    world.want(desired(release=2, instances=1, drain_seconds=60.0, template=template("good2")))
    began = world.now
    while len(world.pods()) < 2 or any(order.run for _, order in world.pods() if order.template.image == "good"):
        world.one_pass(), world.agents(), world.step_routers()
        world.now += 1
        assert world.now < began + 120
    assert world.now - began >= 60


def test_an_idle_address_is_released_at_once() -> None:
    world = deployed(instances=1, drain_seconds=60.0)
    world.want(desired(release=2, instances=1, drain_seconds=60.0, template=template("good2")))
    began = world.now
    world.settle()
    assert world.now - began < 10


def test_a_new_route_is_added_when_a_new_instance_is_ready() -> None:
    world = deployed()
    both = (Route("hello.lain.localhost"), Route("new.example.com"))
    world.want(desired(release=2, template=template("bad"), routes=both))
    world.settle()
    assert world.endpoints().routes == (Route("hello.lain.localhost"),)
    world.want(desired(release=3, template=template("good3"), routes=both))
    world.settle()
    assert world.endpoints().routes == both


ROUTE = (Route("hello.lain.localhost"),)


@pytest.mark.parametrize(
    "more", [{"kept_routes": ROUTE}, {"routes": ROUTE}, {}], ids=["kept", "claimed by both", "dropped"]
)
def test_a_route_that_moves_changes_owner_in_one_moment(more: dict[str, Any]) -> None:
    (route,) = ROUTE
    world = deployed(routes=(route,))
    world.put(keys.ROUTES.key(route.host, "/"), RouteClaim(route.host, "/", "hello", "new"))
    world.want(desired(release=2, **{"routes": (), **more}))
    world.want(desired(proc="new", release=2, template=template("good2"), routes=(route,)))
    holders = set()
    for _ in range(60):
        world.one_pass()
        holders.add(tuple(name for (_, name), ep, _ in world.all(keys.ENDPOINTS) if route in ep.routes))
        world.agents(), world.step_routers()
    assert holders == {("web",), ("new",)}, "always one of the two, and never none"
    world.settle()
    assert world.endpoints(proc="new").routes == (route,)


def test_a_route_the_release_lacks_is_served_until_the_operation_ends() -> None:
    world = deployed(routes=ROUTE)
    world.want(desired(release=2, template=template("good2"), routes=(), kept_routes=ROUTE))
    world.settle()
    assert world.endpoints().routes == ROUTE
    world.want(desired(release=2, template=template("good2"), routes=()))
    world.settle()
    assert world.endpoints().routes == ()
