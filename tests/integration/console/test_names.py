"""Names and hosts belong to one app: registered once, claimed by a deploy, given back."""

from __future__ import annotations

import asyncio

import pytest

from lain_sdk.api_types import Accepted
from lain_sdk.client import Console
from lain_shared.errors import Conflict, Invalid, Refused
from lain_shared.model.app import AppState, Outcome
from tests.fixtures.console import ClusterForConsole, deploy, done, manifest, mounted


async def test_a_name_is_registered_once(lain: Console) -> None:
    repo = await lain.register("hello", "git@git.example.org:team/hello.git")
    assert repo.owner == "ann" and repo.state is AppState.REGISTERED
    assert repo.hosts == ("hello.lain", "hello.lain.localhost")
    assert repo.giturl == "ssh://git@git.example.org/team/hello"
    with pytest.raises(Conflict, match="the name 'hello' is taken") as taken:
        await lain.register("hello")
    assert taken.value.error_code == "name_taken" and taken.value.why == "ann registered it"


@pytest.mark.parametrize("name", ["a/b", "1x", "service", "A-b", "a--b", "a.b", "resource.redis.hello", "é"])
async def test_a_bad_name_is_refused(lain: Console, name: str) -> None:
    with pytest.raises(Invalid):
        await lain.register(name)
    assert await lain.repos() == ()


async def test_a_name_whose_host_is_taken_names_the_owner(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, text=manifest(procs="web: {cmd: serve, port: 80, mountpoint: [shop.lain.localhost]}"))
    with pytest.raises(Conflict, match=r"host shop\.lain\.localhost belongs to app 'hello'"):
        await lain.register("shop")


async def test_a_name_is_given_back(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain)
    with pytest.raises(Conflict, match="deployed"):
        await lain.unregister("hello")
    await done(lain, await lain.undeploy("hello"))
    await lain.unregister("hello")
    assert await lain.repos() == ()
    assert (await cluster.state.all_claims()).hosts == {}
    assert (await lain.register("hello")).release is None


async def test_a_host_leads_to_one_app(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa", mounted("hello", "www.example.org", "api.example.org/v1"))
    await lain.register("other")
    for mountpoint in ("www.example.org", "www.example.org/blog", "api.example.org/v2", "hello.lain.localhost/x"):
        await cluster.release("1-aaa", mounted("other", mountpoint), "other")
        with pytest.raises(Refused, match=r"belongs to app 'hello'"):
            await lain.deploy("other", "1-aaa")
    await lain.set_guests("hello", "www.example.org", ["other"])
    await cluster.release("2-bbb", mounted("other", "www.example.org/blog"), "other")
    assert (await done(lain, await lain.deploy("other", "2-bbb"), "other")).outcome is Outcome.SUCCEEDED
    await cluster.release("3-ccc", mounted("other", "www.example.org"), "other")
    with pytest.raises(Refused, match=r"www\.example\.org belongs to app 'hello'"):
        await lain.deploy("other", "3-ccc")
    await deploy(cluster, lain, "2-bbb", mounted("hello", "new.example.org"))
    claims = await cluster.state.all_claims()
    assert "www.example.org" in claims.hosts, "a guest is still there"
    assert "api.example.org" not in claims.hosts and "new.example.org" in claims.hosts


async def test_the_same_free_host_goes_to_one_of_two(cluster: ClusterForConsole, lain: Console) -> None:
    for app in ("one", "two"):
        await lain.register(app)
        await cluster.release("1-aaa", mounted(app, "www.example.org"), app)
    results = await asyncio.gather(lain.deploy("one"), lain.deploy("two"), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Refused)]
    accepted = [result for result in results if isinstance(result, Accepted)]
    assert len(refused) == len(accepted) == 1 and "www.example.org belongs to app" in refused[0].message
    operation = accepted[0].operation
    assert operation is not None
    await done(lain, accepted[0], operation.app)
