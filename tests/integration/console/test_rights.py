"""What a viewer is not shown, and that no name opens a closed cluster."""

from __future__ import annotations

import aiohttp
import pytest

from lain_console.api import CHANGING, OPEN, build_api
from lain_sdk.client import Console
from lain_shared.errors import Unavailable
from lain_shared.model.config import Role
from lain_shared.model.node import Switch
from lain_shared.testing import eventually
from tests.fixtures.console import ClusterForConsole, manifest
from tests.integration.console.test_console import deploy, done

SECRET, BUILT_IN = "s3cret-of-env", "s3cret-of-manifest"


async def test_values_of_the_environment_are_for_those_who_may_deploy(
    cluster: ClusterForConsole, lain: Console
) -> None:
    console = await cluster.console("c2")
    await deploy(cluster, lain, text=manifest(procs=f"web: {{cmd: serve, port: 80, env: [BUILT_IN={BUILT_IN}]}}"))
    await done(lain, await lain.set_env("hello", {"KEY": SECRET, "OTHER": "x"}))
    maintainer = await cluster.client(console, Role.MAINTAINER, "hello", name="may")
    whole = await maintainer.release("hello", 2)
    assert whole.env == {"KEY": SECRET, "OTHER": "x"} and BUILT_IN in whole.manifest
    for role, apps in ((Role.VIEWER, ("hello",)), (Role.AUDITOR, ())):
        reader = await cluster.client(console, role, *apps, name=role.value)
        shown = await reader.release("hello", 2)
        assert (shown.env, shown.env_names, shown.manifest) == ({}, ("KEY", "OTHER"), "")
        base = "/api/v1/apps/hello/"
        for path in ("", "procs/", "procs/web/", "releases/", "releases/1/", "releases/2/", "history/", "explain/"):
            answer = str(await reader.http.get(base + path))
            assert SECRET not in answer and BUILT_IN not in answer, path
        planned = str(await reader.http.post(base + "plan/", json={"meta_version": "1-aaa"}))
        assert SECRET not in planned and BUILT_IN not in planned


@pytest.mark.parametrize("name", ["readonly", "maintenance"])
async def test_no_name_opens_a_closed_cluster(cluster: ClusterForConsole, lain: Console, name: str) -> None:
    await deploy(cluster, lain, text=manifest("plan", "web: {cmd: serve, port: 80}\nworker.plan: {cmd: x}"), app="plan")
    await cluster.state.switches.put(Switch(name, True, "ops", 1.0, "moving racks"), name)
    await eventually(lambda: _is_on(lain, name), what="the switch is seen")
    desired = await cluster.state.desired.list()
    for change in (
        lain.scale("plan", "plan", 2),
        lain.restart("plan", "plan"),
        lain.deploy("plan"),
        lain.undeploy("plan"),
        lain.unregister("plan"),
    ):
        with pytest.raises(Unavailable, match="nothing is changed now"):
            await change
    assert await cluster.state.desired.list() == desired
    assert (await lain.plan("plan")).app == "plan"
    issued = await lain.issue_token("ci", Role.VIEWER, ["plan"])
    await lain.revoke_token(issued.token.id)
    token = await cluster.token()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        path = f"{lain.url}/api/v1/apps/plan/procs/web/instances/1/exec/?cmd=ls"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(path)
        assert refused.value.status == 503


async def _is_on(lain: Console, name: str) -> bool:
    return name in (await lain.cluster()).switches


def test_every_open_route_exists() -> None:
    paths = {endpoint.path for endpoint in build_api().endpoints}
    assert paths >= OPEN | CHANGING
