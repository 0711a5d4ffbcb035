"""The controller's admin API over HTTP, through the SDK: who may, what is answered, what is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lain_deployd.main import build
from lain_deployd.settings import Settings
from lain_sdk.client import Deployd
from lain_shared import keys
from lain_shared.daemon import Health, run_daemon
from lain_shared.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated, Unavailable
from lain_shared.model.config import Jwks, Role, Token
from lain_shared.model.pod import Desired, PodTemplate, ProcType
from lain_shared.model.route import Route, RouterMember
from lain_shared.records import Records
from lain_shared.testing import MemoryStore, eventually
from lain_shared.tokens import Signer
from tests.fixtures.parts import running
from tests.integration.deployd.fake_parts import FakeAgent, FakeRouter


@dataclass
class Served:
    """A controller that serves on loopback, an agent and a router."""

    store: MemoryStore
    url: str
    signer: Signer
    agent: FakeAgent
    router: FakeRouter

    async def token(self, role: Role, *apps: str) -> str:
        now = time.time()
        token = Token(f"{role.value}-{len(apps)}", "ann", role, apps, now, "test", now + 600)
        await Records(self.store, keys.TOKENS, Token).put(token, token.id)
        text = self.signer.sign(token)

        async def known() -> bool:
            async with Deployd(self.url, token=text) as client:
                try:
                    await client.pods()
                except Unauthenticated:
                    return False
                return True

        await eventually(known)
        return text


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(encoding, kind, serialization.NoEncryption()))
    signer, store = Signer(tmp_path / "key.pem", "test", "lain"), MemoryStore()
    await Records(store, keys.CONFIG, Jwks).put(Jwks((signer.public,), "test", "lain"), "jwks")
    agent, router = FakeAgent(store, "n1"), FakeRouter(store, "r1")
    await agent.join()
    await router.join()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    health, stop = Health(), asyncio.Event()
    daemon = build(
        Settings(etcd=("x",), id="one", listen="127.0.0.1", port=0), health, store, on_listening=port.set_result
    )
    async with running(agent, router):
        serving = asyncio.create_task(run_daemon(daemon, health=health, stop=stop))
        try:
            url = f"http://127.0.0.1:{await port}"
            await eventually(lambda: not health.not_ready(), what="the controller is ready")
            yield Served(store, url, signer, agent, router)
        finally:
            stop.set()
            await serving


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Deployd]:
    async with Deployd(served.url, token=await served.token(Role.OPERATOR)) as opened:
        yield opened


async def deploy(served: Served, **more: Any) -> None:
    fields: dict[str, Any] = {
        "type": ProcType.WEB,
        "release": 1,
        "instances": 2,
        "routes": (Route("hello.lain.localhost"),),
    }
    fields.update(more)
    desired = Desired(app="hello", proc="web", template=PodTemplate("good", port=8000), **fields)
    await Records(served.store, keys.DESIRED, Desired).put(desired, "hello", "web")


async def test_nodes_are_registered_labelled_and_cordoned(served: Served, client: Deployd) -> None:
    node = await client.register_node("n2", "10.0.0.2", {"disk": "ssd"})
    assert (node.address, dict(node.labels), node.cordoned) == ("10.0.0.2", {"disk": "ssd"}, False)
    await client.change_node("n2", cordoned=True, labels={"zone": "a", "disk": None})
    await client.register_node("n2", "10.0.0.3", {"zone": "b"})
    view = await eventually_node(client, "n2", address="10.0.0.3")
    assert view.node.cordoned and dict(view.node.labels) == {"zone": "b"} and view.alive is None
    assert [each.node.name for each in await client.nodes()] == ["n1", "n2"]
    with pytest.raises(NotFound):
        await client.node("n9")
    with pytest.raises(NotFound):
        await client.change_node("n9", cordoned=True)


async def eventually_node(client: Deployd, name: str, *, address: str) -> Any:
    async def look() -> Any:
        view = await client.node(name)
        return view if view.node.address == address else None

    return await eventually(look)


@pytest.mark.parametrize(
    ("name", "body"),
    [("n2", {}), ("n2", {"address": "nowhere"}), ("n2", {"address": "10.0.0.2", "labels": {"a b": "c"}}), ("N 2", {"address": "10.0.0.2"})],
)  # fmt: skip
async def test_a_wrong_registration_says_what_is_wrong(client: Deployd, name: str, body: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await client.http.put(f"/api/v1/nodes/{name}/", json=body)


async def test_what_runs_where_and_why(served: Served, client: Deployd) -> None:
    await deploy(served, filters=("constraint:disk!=tape",))
    await client.register_node("n2", "10.0.0.2", {"disk": "tape"})

    async def ready() -> bool:
        pods = await client.pods()
        return [(pod.app, pod.proc, pod.instance, pod.node) for pod in pods if pod.ready] == [
            ("hello", "web", 1, "n1"), ("hello", "web", 2, "n1"),
        ]  # fmt: skip

    await eventually(ready)
    assert [(order.node, order.instance) for order in await client.assignments()] == [("n1", 1), ("n1", 2)]
    why = await client.why("hello", "web")
    assert {opinion.node: opinion.against for opinion in why.nodes} == {"n1": "", "n2": "away"}
    assert [reason.node for reason in why.instances] == ["n1", "n1"]
    assert (await client.node("n1")).pods == 2
    with pytest.raises(NotFound):
        await client.why("hello", "nothing")


async def test_switches(served: Served, client: Deployd) -> None:
    assert {switch.name: switch.on for switch in await client.switches()} == {
        "readonly": False, "maintenance": False, "guard": True, "breaker": False,
    }  # fmt: skip
    await client.set_switch("readonly", True, "the cluster moves house")
    with pytest.raises(Denied, match="readonly"):
        await client.register_node("n2", "10.0.0.2")
    switch = await client.set_switch("readonly", False)
    assert (switch.by, switch.on) == ("ann", False)
    await client.register_node("n2", "10.0.0.2")
    with pytest.raises(NotFound):
        await client.set_switch("nonsense", True)


async def test_routers_and_how_to_forget_one(served: Served, client: Deployd) -> None:
    await Records(served.store, keys.ROUTER_MEMBERS, RouterMember).put(RouterMember("gone", "n9", 1.0), "gone")

    async def known() -> bool:
        return {router.router: router.state is None for router in await client.routers()} == {"gone": True, "r1": False}

    await eventually(known)
    with pytest.raises(Conflict, match="alive"):
        await client.forget_router("r1")
    await client.forget_router("gone")
    with pytest.raises(NotFound):
        await client.forget_router("gone")


async def test_how_the_platform_is_is_told_also_when_the_store_is_away(served: Served, client: Deployd) -> None:
    async def led() -> bool:
        return (await client.platform()).leader.id == "one"

    await eventually(led)
    told = await client.platform()
    assert (told.daemon, told.leader.foreign, told.store_trouble, told.unreadable) == ("deployd", False, "", {})
    assert [view.node.name for view in told.nodes] == ["n1"]

    await served.store.put(keys.DESIRED.key("odd", "web"), b"no JSON")

    async def reported() -> bool:
        return keys.DESIRED.key("odd", "web") in (await client.platform()).unreadable

    await eventually(reported)
    with served.store.outage():
        told = await client.platform()
        assert (told.leader.id, bool(told.leader.problem)) == ("", True)
        assert [view.node.name for view in told.nodes] == ["n1"], "what was known is told"


async def test_a_leader_that_nobody_wrote_is_told_apart(served: Served, client: Deployd) -> None:
    key = keys.LEADER.key("deployd")
    await served.store.put(key, b'{"v":1,"id":"ghost","since":1.0}')
    leader = (await client.platform()).leader
    assert (leader.id, leader.foreign) == ("ghost", True)
    await served.store.put(key, b"nonsense")
    leader = (await client.platform()).leader
    assert (leader.id, leader.foreign) == ("", True) and key in leader.problem


async def test_a_drain_is_taken_and_ended(served: Served, client: Deployd) -> None:
    drain = await client.drain_node("n1")
    assert (drain.node, drain.by) == ("n1", "ann")
    await client.end_drain("n1")
    assert await served.store.get(keys.DRAINS.key("n1")) is None
    with pytest.raises(NotFound):
        await client.drain_node("n9")


async def test_it_is_closed_to_strangers(served: Served) -> None:
    async with aiohttp.ClientSession(served.url) as session:
        document = await (await session.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            for method in methods:
                async with session.request(method, path.replace("{", "").replace("}", "")) as answer:
                    open_to_all = not path.startswith("/api/")
                    assert (answer.status != 401) is open_to_all, (method, path)


async def test_viewers_see_their_apps_and_change_nothing(served: Served) -> None:
    await deploy(served)
    async with Deployd(served.url, token=await served.token(Role.MAINTAINER, "other")) as other:
        assert await other.pods() == ()
        with pytest.raises(Denied):
            await other.why("hello", "web")
        with pytest.raises(Denied):
            await other.register_node("n2", "10.0.0.2")
        with pytest.raises(Denied):
            await other.assignments()
    async with Deployd(served.url, token=await served.token(Role.VIEWER, "hello")) as viewer:
        assert (await viewer.why("hello", "web")).app == "hello"
        with pytest.raises(Denied):
            await viewer.set_switch("readonly", True)


async def test_without_the_store_it_says_unavailable(served: Served, client: Deployd) -> None:
    with served.store.outage(), pytest.raises(Unavailable):
        await client.register_node("n2", "10.0.0.2")
    assert await client.nodes(), "what is in memory is still told"


async def test_metrics_tell_who_leads(served: Served) -> None:
    async with aiohttp.ClientSession(served.url) as session:

        async def leads() -> bool:
            return "lain_deployd_leads 1.0" in await (await session.get("/metrics")).text()

        await eventually(leads)
        assert (await session.get("/readyz")).status == 200
