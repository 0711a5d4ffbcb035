"""Who may do what, what a viewer is not shown, and that no name opens a closed cluster."""

from __future__ import annotations

from collections.abc import Awaitable

import aiohttp
import pytest

from lain_console.api import CHANGING, OPEN, build_api
from lain_sdk.client import Console
from lain_shared.errors import Denied, Invalid, NotFound, Unauthenticated, Unavailable
from lain_shared.model.config import Role
from lain_shared.model.node import Switch
from lain_shared.testing import eventually
from tests.fixtures.console import ClusterForConsole, deploy, done, manifest

SECRET, BUILT_IN = "s3cret-of-env", "s3cret-of-manifest"


async def test_nobody_gets_nothing(cluster: ClusterForConsole, lain: Console) -> None:
    for token in (None, "nonsense", "a.b.c"):
        async with Console(lain.url, token=token) as nobody:
            with pytest.raises(Unauthenticated):
                await nobody.apps()
            with pytest.raises(Unauthenticated):
                await nobody.register("hello")


async def denied(*calls: Awaitable[object]) -> None:
    for call in calls:
        with pytest.raises(Denied):
            await call


async def test_rights_are_per_app_and_role(cluster: ClusterForConsole, lain: Console) -> None:
    console = await cluster.console("c2")
    await deploy(cluster, lain)
    await deploy(cluster, lain, app="other")
    viewer = await cluster.client(console, Role.VIEWER, "hello", name="vic")
    maintainer = await cluster.client(console, Role.MAINTAINER, "hello", name="may")
    auditor = await cluster.client(console, Role.AUDITOR, name="aud")
    assert [app.name for app in await viewer.apps()] == ["hello"] and (await viewer.app("hello")).healthy
    assert [repo.name for repo in await viewer.repos()] == ["hello"]
    await denied(viewer.app("other"), viewer.deploy("hello"), viewer.env("hello"), viewer.register("new"))
    await denied(maintainer.register("new"), maintainer.unregister("hello"), maintainer.tokens())
    record = await done(maintainer, await maintainer.restart("hello"))
    assert record.who == "may"
    assert len(await auditor.apps()) == 2
    await denied(auditor.scale("hello", "web", 2), auditor.config("cluster"))
    with pytest.raises(NotFound):
        await lain.app("nobody")


async def test_tokens_are_shown_once_listed_and_revoked(cluster: ClusterForConsole, lain: Console) -> None:
    issued = await lain.issue_token("ci", Role.MAINTAINER, ["hello"], expires_in_seconds=3600)
    async with Console(lain.url, token=issued.text) as ci:
        who = await eventually(ci.whoami, what="the token is known")
        assert (who.name, who.role, who.apps) == ("ci", "maintainer", ("hello",))
        listed = {token.id: token for token in await lain.tokens()}
        assert listed[issued.token.id].created_by == "ann" and not listed[issued.token.id].revoked
        stored = await cluster.store.list("/lain/tokens/")
        assert not any(issued.text.encode() in entry.value for entry in stored.entries)
        await lain.revoke_token(issued.token.id)
        await lain.revoke_token(issued.token.id)

        async def refused() -> bool:
            try:
                await ci.whoami()
            except Unauthenticated:
                return True
            return False

        await eventually(refused, what="the revoked token is refused")
    with pytest.raises(NotFound):
        await lain.revoke_token("nobody")
    with pytest.raises(Invalid):
        await lain.issue_token("x", Role.OPERATOR, ["hello"])
    with pytest.raises(Invalid):
        await lain.issue_token("x", Role.OPERATOR, expires_in_seconds=10 * 365 * 86400)


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
