"""The console itself: its configuration, what is away or closed, and what it tells of the platform."""

from __future__ import annotations

import pytest

from lain_sdk.api_types import Severity, Verdict
from lain_sdk.client import Console
from lain_shared import platform_look
from lain_shared.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from lain_shared.model.app import Outcome
from lain_shared.model.node import Switch
from lain_shared.testing import eventually
from tests.fixtures.console import ClusterForConsole, deploy, done
from tests.fixtures.registry import ImageRegistry


async def test_configuration_is_read_and_changed_with_care(lain: Console) -> None:
    assert set(await lain.config_names()) == {"cluster", "jwks"}
    config = await lain.config("cluster")
    changed = await lain.set_config("cluster", {**config.value, "timezone": "Europe/Rome"}, revision=config.revision)
    assert changed.value["timezone"] == "Europe/Rome"
    with pytest.raises(Conflict, match="somebody else"):
        await lain.set_config("cluster", dict(config.value), revision=config.revision)
    with pytest.raises(Invalid, match=r"value\.colour: Unknown field"):
        await lain.set_config("cluster", {**config.value, "colour": "red"})
    with pytest.raises(Invalid):
        await lain.set_config("cluster", {**config.value, "router_http_port": "eighty"})
    with pytest.raises(Refused):
        await lain.set_config("jwks", {})
    with pytest.raises(NotFound):
        await lain.set_config("colours", {})
    for fixed in ({"pod_network": "10.0.0.0/8"}, {"name": "another"}, {"network": "networkd"}):
        with pytest.raises(Refused, match="keeps its"):
            await lain.set_config("cluster", {**config.value, **fixed})
    view = await lain.cluster()
    assert (view.domain, view.router_http_port, view.nodes_alive) == ("lain.localhost", 8080, 1)


async def test_a_registry_that_is_down_is_named(cluster: ClusterForConsole, own_registry: ImageRegistry) -> None:
    cluster.images = own_registry
    lain = await cluster.client(await cluster.console("c9"))
    await deploy(cluster, lain, "1-aaa")
    await deploy(cluster, lain, "2-bbb")
    own_registry.stop()
    for needs_it in (lain.deploy("hello"), lain.versions("hello"), lain.rollback("hello"), lain.plan("hello")):
        with pytest.raises(Unavailable, match=f"the registry {own_registry.url} cannot be reached"):
            await needs_it
    assert (await lain.app("hello")).healthy
    assert (await done(lain, await lain.scale("hello", "web", 2))).outcome is Outcome.SUCCEEDED
    assert (await done(lain, await lain.set_env("hello", {"A": "b"}))).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("name", ["readonly", "maintenance"])
async def test_a_switch_closes_the_cluster_for_changes(cluster: ClusterForConsole, lain: Console, name: str) -> None:
    await deploy(cluster, lain)
    await cluster.state.switches.put(Switch(name, True, "ops", 1.0, "moving racks"), name)

    async def closed() -> bool:
        try:
            await lain.restart("hello")
        except Unavailable as refused:
            assert refused.error_code == name and refused.why == "moving racks"
            return True
        except Conflict:
            return False
        return False

    await eventually(closed, what="the switch is seen")
    for change in (lain.register("x"), lain.deploy("hello"), lain.scale("hello", "web", 2), lain.undeploy("hello")):
        with pytest.raises(Unavailable, match="nothing is changed now"):
            await change
    assert (await lain.plan("hello")).verdict is Verdict.NOTHING
    assert (await lain.cluster()).switches == {name: "moving racks"}
    assert any(f"{name} mode" in finding.what for finding in (await lain.explain("hello")).findings)


async def test_how_the_platform_is(cluster: ClusterForConsole, lain: Console) -> None:
    told = await lain.platform()
    assert (told.daemon, told.store_trouble, told.unreadable) == ("console", "", {})
    members = await platform_look.etcd_members(cluster.store)
    assert [(member.error, member.alarms) for member in members] == [("", ())]
    assert members[0].has_leader and members[0].leads and members[0].db_bytes > 0
    assert (told.leader.id, told.leader.problem) == ("", ""), "no controller runs here"
    assert [view.node.name for view in told.nodes if view.alive is not None] == ["n1"]


async def test_explain_of_a_healthy_app(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain)
    explained = await lain.explain("hello")
    assert explained.headline.startswith("hello is well: release 1 runs as wanted, served at http://hello.lain")
    assert [finding.severity for finding in explained.findings] == [Severity.OK]


async def test_openapi_describes_every_route(lain: Console) -> None:
    document = await lain.http.get("/openapi.json")
    paths = document["paths"]
    assert "put" in paths["/api/v1/apps/{app}/"] and "get" in paths["/api/v1/apps/{app}/operation/events/"]
    assert "AppView" in document["components"]["schemas"]
    assert (await lain.http.get("/readyz"))["status"] == "ready"
