"""The whole router: what stands in the store is what nginx does, and what nginx does is what is published."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lain_shared import keys
from lain_shared.etcd import EtcdStore
from lain_shared.model.config import ClusterConfig
from lain_shared.model.route import ProxyOptions, Route, RouterMember
from lain_shared.records import Records
from lain_shared.testing import MemoryStore, eventually
from lain_watcher.api import api
from tests.fixtures.certificates import Authority
from tests.fixtures.etcd import Cluster
from tests.integration.watcher.test_nginx_swaps import Load
from tests.integration.watcher.watched import Watched, endpoint, ready


async def test_a_ready_instance_answers_within_moments(watch: Callable[..., Any], backends: Callable[..., Any]) -> None:
    """R1: both instances of a new app, round-robin."""
    watched: Watched = await watch(MemoryStore())
    one, two = await backends("one", "two")
    began = time.monotonic()
    revision = await watched.put("hello", one, two)
    await watched.applied(revision)
    assert time.monotonic() - began < 3
    seen = {(await watched.front.get("/")).json["backend"] for _ in range(4)}
    assert seen == {"one", "two"}
    await ready(watched)


async def test_it_registers_before_it_reads(watch: Callable[..., Any]) -> None:
    """The leader must know of a router before that router can hold anything that the leader must wait for."""
    asked: list[str] = []

    class Noting(MemoryStore):
        async def list(self, prefix: str) -> Any:
            if prefix == keys.ENDPOINTS.prefix:
                asked.append("endpoints" if await self.get(keys.ROUTER_MEMBERS.key("r1")) else "too early")
            return await super().list(prefix)

    watched: Watched = await watch(Noting(), node="n1")
    await ready(watched)
    assert set(asked) == {"endpoints"}
    member = await Records(watched.store, keys.ROUTER_MEMBERS, RouterMember).get("r1")
    assert member is not None
    assert (member.value.router, member.value.node) == ("r1", "n1")


async def test_draining_addresses_are_busy_until_the_last_request_ended(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    watched: Watched = await watch(MemoryStore())
    old, new = await backends("old", "new")
    await watched.applied(await watched.put("hello", old))
    asking = asyncio.create_task(watched.front.get("/slow"))
    await eventually(lambda: old.waiting == 1)
    state = await watched.applied(await watched.put("hello", new, draining=(endpoint(old),)))
    assert state.busy == (old.address,)
    assert state.boot_id
    old.release.set()
    ended = time.monotonic()
    assert (await asking).status == 200

    async def idle() -> bool:
        return (await watched.published()).busy == ()

    await eventually(idle)
    assert time.monotonic() - ended < 1.0, "told promptly"


async def test_the_older_claim_wins_and_the_newer_app_is_told(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    """R5."""
    watched: Watched = await watch(MemoryStore())
    one, two, three = await backends("one", "two", "three")
    await watched.put("older", one, host="x.example")
    state = await watched.applied(await watched.put("newer", two, host="x.example"))
    assert (await watched.front.get("/", "x.example")).json["backend"] == "one"
    assert "belongs to older" in state.quarantined["newer"]
    assert state.not_applied == ()
    await watched.applied(await watched.put("third", three))
    assert (await watched.front.get("/", "third.example")).json["backend"] == "three"


async def test_hostile_data_quarantines_its_app_alone(watch: Callable[..., Any], backends: Callable[..., Any]) -> None:
    """R6: routes frozen, addresses not; an unreadable record pauses that app's rollout."""
    watched: Watched = await watch(MemoryStore())
    one, two = await backends("one", "two")
    await watched.applied(await watched.put("evil", one))
    evil = (Route('x"; return 200 evil;'), Route("evil.example", "/../etc"))
    state = await watched.applied(await watched.put("evil", two, routes=evil))
    assert "is not a host name" in state.quarantined["evil"]
    assert (await watched.front.get("/", "evil.example")).json["backend"] == "two"
    revision = await watched.store.put(keys.ENDPOINTS.key("evil", "web"), b'{"v":1,"app":7')
    state = await watched.applied(revision)
    assert state.not_applied == ("evil",)
    assert (await watched.front.get("/", "evil.example")).json["backend"] == "two"
    state = await watched.applied(await watched.put("hello", one))
    assert (await watched.front.get("/")).json["backend"] == "one"
    state = await watched.applied(await watched.put("evil", one))
    assert (state.quarantined, state.not_applied) == ({}, ())


async def test_certificates_are_served_soon_and_missed_gently(
    watch: Callable[..., Any], backends: Callable[..., Any], tmp_path: Path
) -> None:
    """R8 and R9."""
    watched: Watched = await watch(MemoryStore())
    (one,) = await backends("one")
    routes = (Route("a.shop.example", https_only=True), Route("b.example"))
    await watched.applied(await watched.put("shop", one, routes=routes))
    pair, directory = Authority(tmp_path / "ca").issue("shop"), tmp_path / "certificates"
    assert (await watched.front.get("/", "a.shop.example")).status == 200
    directory.mkdir()
    shutil.copy(pair / "key.pem", directory / "_wildcard.shop.example.key")
    shutil.copy(pair / "cert.pem", directory / "_wildcard.shop.example.crt")
    began = time.monotonic()

    async def served() -> bool:
        try:
            return bool(await watched.front.handshake("a.shop.example"))
        except (ssl.SSLError, ConnectionError):
            return False

    await eventually(served, 5)
    assert time.monotonic() - began < 3
    assert (await watched.front.get("/", "a.shop.example")).status == 301
    (directory / "_wildcard.shop.example.crt").unlink()

    async def gone() -> bool:
        return not await served()

    await eventually(gone, 5)
    assert (await watched.front.get("/", "a.shop.example")).status == 200, "the host stays on HTTP"
    metrics = await watched.front.session.get(f"http://127.0.0.1:{watched.settings.port}/metrics")
    assert "lain_watcher_certificate_problems 1.0" in await metrics.text()
    await watched.applied(await watched.put("hello", one))


async def test_a_sudden_loss_is_held_until_an_operator_accepts_it(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    """R12: everything vanishes at once; traffic goes on, the revision stays, readiness says why."""
    store = MemoryStore()
    watched: Watched = await watch(store)
    (one,) = await backends("one")
    for number in range(6):
        revision = await watched.put(f"app{number}", one)
    before = await watched.applied(revision)
    deleted = await store.txn([], [watched.endpoints.delete_op(f"app{number}", "web") for number in range(6)])

    async def held() -> bool:
        return "guard" in (await watched.api("GET", "/readyz"))[1]["reasons"]

    await eventually(held)
    assert (await watched.front.get("/", "app3.example")).status == 200
    state = await watched.published()
    assert state.applied_revision == before.applied_revision
    assert state.not_applied == tuple(f"app{number}" for number in range(6))
    assert deleted > state.applied_revision


async def test_changes_come_faster_than_swaps_and_the_last_one_counts(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    """R13: 500 backend changes, no reload, no failed request, the final state is the wanted one."""
    watched: Watched = await watch(MemoryStore())
    one, two = await backends("one", "two")
    await watched.applied(await watched.put("hello", one))
    workers, load = watched.front.box.workers, Load(watched.front, 4)
    for number in range(500):
        revision = await watched.put("hello", two if number % 2 else one)
        if number % 50 == 0:
            await asyncio.sleep(0)
    await watched.applied(revision)
    answers = await load.end()
    assert set(answers) <= {"one", "two"}, answers
    assert {(await watched.front.get("/")).json["backend"] for _ in range(4)} == {"two"}
    assert watched.front.box.workers == workers


async def test_without_the_store_traffic_goes_on_and_readiness_fades(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    """R11."""
    store = MemoryStore()
    watched: Watched = await watch(store, stale_seconds=0.5)
    (one,) = await backends("one")
    await watched.applied(await watched.put("hello", one))
    with store.outage():

        async def faded() -> bool:
            return "etcd" in (await watched.api("GET", "/readyz"))[1]["reasons"]

        await eventually(faded, 5)
        assert (await watched.front.get("/")).status == 200
    revision = await watched.put("late", one)
    await watched.applied(revision)


async def test_a_start_without_the_store_serves_the_last_good_table(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    store = MemoryStore()
    first: Watched = await watch(store)
    (one,) = await backends("one")
    await first.applied(await first.put("hello", one))
    box = first.front.box
    await first.end()
    assert await asyncio.to_thread(box.stop) == 0
    with store.outage():
        second: Watched = await watch(store, box=box, sync_wait_seconds=0.3)
        await asyncio.to_thread(box.start)
        assert (await second.front.get("/")).json["backend"] == "one"
        assert (await second.api("GET", "/readyz"))[0] == 503
    revision = await second.put("late", one)
    await second.applied(revision)
    await ready(second)


async def test_a_full_disk_stops_no_change_but_its_acknowledgement(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    watched: Watched = await watch(MemoryStore())
    one, two = await backends("one", "two")
    before = await watched.applied(await watched.put("hello", one))
    obstacle = watched.front.box.shared / "table.jsonl.new"
    obstacle.mkdir()  # the table cannot be written
    revision = await watched.put("hello", two)

    async def served() -> bool:
        return bool((await watched.front.get("/")).json["backend"] == "two")

    await eventually(served)
    assert (await watched.published()).applied_revision == before.applied_revision
    obstacle.rmdir()
    await watched.applied(revision)


async def test_a_restart_does_not_unregister_and_an_operator_can(watch: Callable[..., Any]) -> None:
    store = MemoryStore()
    first: Watched = await watch(store)
    await ready(first)
    state = await first.published()
    since = await store.get(keys.ROUTER_MEMBERS.key("r1"))
    lease = (await store.get(keys.ROUTERS.key("r1"))) or pytest.fail("not published")
    await first.end()
    assert await first.published() == state, "the lease runs on: an upgrade within it is invisible"
    second: Watched = await watch(store, box=first.front.box)
    await ready(second)
    assert await store.get(keys.ROUTER_MEMBERS.key("r1")) == since
    adopted = await store.get(keys.ROUTERS.key("r1"))
    assert adopted is not None
    assert adopted.lease == lease.lease
    assert {(each.method, each.access.value) for each in api.endpoints if "membership" in each.path} == {
        ("GET", "read"), ("DELETE", "operator"), ("PUT", "operator"),
    }  # fmt: skip


async def test_the_api_is_closed_to_strangers(watch: Callable[..., Any]) -> None:
    watched: Watched = await watch(MemoryStore())
    for path in ("routes", "endpoints", "quarantined", "certificates", "membership"):
        assert (await watched.api("GET", f"/api/v1/{path}/"))[0] in (401, 503)
    assert (await watched.api("DELETE", "/api/v1/membership/"))[0] in (401, 503)
    for path in ("/healthz", "/version", "/openapi.json", "/metrics"):
        assert (await watched.api("GET", path))[0] == 200


async def test_the_clusters_domain_and_tls_port_reach_nginx(
    watch: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    watched: Watched = await watch(MemoryStore())
    (one,) = await backends("one")
    config = Records(watched.store, keys.CONFIG, ClusterConfig)
    await config.put(ClusterConfig("c", "lain.example", router_https_port=8443), "cluster")
    await watched.applied(await watched.put("hello", one, host="hello.lain.example"))
    port = watched.front.box.external_port

    async def hidden() -> bool:
        return (await watched.front.get("/", "hello.lain.example", port=port)).status == 404

    await eventually(hidden)
    assert (await watched.front.get("/", "hello.lain.example")).status == 200


async def test_on_real_etcd_too(etcd_single: Cluster, watch: Callable[..., Any], backends: Callable[..., Any]) -> None:
    """The same, and etcd killed and back: traffic untouched, the lease and the next change are not lost."""
    one, two = await backends("one", "two")
    async with EtcdStore.connect(etcd_single.endpoints) as store:
        watched: Watched = await watch(store)
        await watched.applied(await watched.put("hello", one, proxy=ProxyOptions(read_timeout_seconds=30)))
        load = Load(watched.front, 2)
        etcd_single.members[0].kill()
        await load.more(100)
        etcd_single.members[0].start()
        await asyncio.to_thread(etcd_single.wait_healthy)

        async def moved() -> int:
            return await watched.put("hello", two)

        await watched.applied(await eventually(moved, 20))
        assert (await watched.front.get("/")).json["backend"] == "two"
        assert set(await load.end()) <= {"one", "two"}
        await watched.end()
