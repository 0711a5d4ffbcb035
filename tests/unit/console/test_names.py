"""Giving names and hosts back: never under somebody who comes at that moment, never with data left on a disk."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lain_console.apps import Apps
from lain_console.operations.claims import ClaimPlan, plan_claims
from lain_shared import keys
from lain_shared.errors import Conflict, NotFound, Refused, Unavailable
from lain_shared.model.app import App, Outcome
from lain_shared.model.node import NodeState
from lain_shared.model.route import HostClaim
from lain_shared.store import Delete, Expectation, Write
from lain_shared.testing import MemoryStore
from tests.unit.console.builders import Bench, Console, release_of, web


@pytest.fixture
async def console(bench: Bench) -> Console:
    await bench.register()
    return await bench.console()


async def test_a_name_is_not_given_back_while_a_disk_has_its_data(bench: Bench, console: Console) -> None:
    apps = Apps(bench.state, console.starter, bench.clock)
    volumes = ("hello.db-1", "hellos.db-1")
    await bench.state.node_states.put(NodeState("n1", 4, 1 << 34, 0, 1, 1, "20.10", volumes=volumes), "n1")
    with pytest.raises(Conflict, match=r"still has volumes: hello\.db-1 on n1$") as kept:
        await apps.unregister("hello", "ann")
    assert kept.value.error_code == "has_volumes" and "lain undeploy --delete-volumes hello" in kept.value.next
    await bench.make_node()
    await bench.store.put(keys.NODES_STATE.key("n2"), b'{"v":99}')
    with pytest.raises(Unavailable, match="what is on n2 cannot be read"):
        await apps.unregister("hello", "ann")
    await bench.store.delete(keys.NODES_STATE.key("n2"))
    await apps.unregister("hello", "ann")
    assert await bench.state.apps.get("hello") is None


# --- volumes that shall go ---------------------------------------------------------------------------------------------


async def lists(bench: Bench, *volumes: str) -> None:
    """The node says which volumes it has."""
    await bench.state.node_states.put(NodeState("n1", 4, 1 << 34, 0, 1, 1, "20.10", volumes=volumes), "n1")


async def test_volumes_are_deleted_when_asked_for_by_name_and_only_when_the_app_has_ended(
    bench: Bench, console: Console
) -> None:
    apps = Apps(bench.state, console.starter, bench.clock)
    await console.deploy(release_of(1, web(1)))
    assert await bench.run(console) is not None
    await lists(bench, "hello.db-1", "hello.db-2", "hellos.db-1")
    with pytest.raises(Refused, match="'hell', not the app's name"):
        await apps.undeploy("hello", "ann", "hell")
    operation, volumes = await apps.undeploy("hello", "ann", "hello")
    assert operation.delete_volumes and [volume.name for volume in volumes] == ["hello.db-1", "hello.db-2"]
    assert await bench.state.volume_deletions.list() == (), "nothing is ordered while it may still be cancelled or fail"
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    (order,) = await bench.state.volume_deletions.list()
    assert (order.value.node, order.value.volumes, order.value.who) == ("n1", ("hello.db-1", "hello.db-2"), "ann")

    with pytest.raises(Conflict, match="volumes of hello are being deleted on n1"):
        await console.deploy(release_of(2, web(2)))
    with pytest.raises(Conflict, match="being deleted"):
        await apps.unregister("hello", "ann")
    await apps.settle_deletions()
    assert await bench.state.volume_deletions.list() != (), "the node still lists them"
    await lists(bench, "hellos.db-1")
    await apps.settle_deletions()
    assert await bench.state.volume_deletions.list() == ()
    await apps.unregister("hello", "ann")


async def test_volumes_that_an_earlier_undeploy_kept_can_still_be_deleted(bench: Bench, console: Console) -> None:
    apps = Apps(bench.state, console.starter, bench.clock)
    with pytest.raises(NotFound, match="not deployed"):
        await apps.undeploy("hello", "ann", "hello")
    await lists(bench, "hello.db-1")
    await apps.undeploy("hello", "ann", "hello")
    assert await bench.run(console) is not None
    assert [order.value.volumes for order in await bench.state.volume_deletions.list()] == [("hello.db-1",)]


async def test_an_undeploy_that_keeps_volumes_orders_nothing(bench: Bench, console: Console) -> None:
    apps = Apps(bench.state, console.starter, bench.clock)
    await console.deploy(release_of(1, web(1)))
    assert await bench.run(console) is not None
    await lists(bench, "hello.db-1")
    await apps.undeploy("hello", "ann")
    assert await bench.run(console) is not None
    assert await bench.state.volume_deletions.list() == ()


async def test_a_node_nobody_can_read_holds_the_deletion_not_the_console(bench: Bench, console: Console) -> None:
    apps = Apps(bench.state, console.starter, bench.clock)
    await lists(bench, "hello.db-1")
    await apps.undeploy("hello", "ann", "hello")
    await bench.store.put(keys.NODES_STATE.key("n2"), b'{"v":99}')
    for _ in range(5):
        await console.driver.one_pass()
    assert await bench.state.operations.get("hello") is not None
    await bench.store.delete(keys.NODES_STATE.key("n2"))
    assert await bench.run(console) is not None
    assert len(await bench.state.volume_deletions.list()) == 1


# --- guests -----------------------------------------------------------------------------------------------------------


class Beaten:
    """A store whose user is beaten by a guest: just before it deletes ``host``, the guest's claims are written."""

    def __init__(self, inner: MemoryStore, host: str) -> None:
        self._inner, self._key = inner, keys.HOSTS.key(host)
        self.guest: ClaimPlan | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def txn(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        if self.guest is not None and Delete(self._key) in writes:
            guest, self.guest = self.guest, None
            await self._inner.txn(guest.expectations, guest.writes)
        return await self._inner.txn(expect, writes)


async def guest_of(bench: Bench, host: str) -> ClaimPlan:
    """What ``shop`` would write to come to ``host``, as planned now."""
    plan = plan_claims("shop", [web(1, f"{host}/shop")], await bench.state.claims_on([host]))
    assert plan.refusals == ()
    return plan


async def test_a_host_is_not_given_back_under_a_guest_that_comes_at_that_moment(bench: Bench, console: Console) -> None:
    await console.deploy(release_of(1, web(1, "a.org")))
    assert await bench.run(console) is not None
    await bench.state.apps.put(App("shop", "bob", 0.0), "shop")
    await Apps(bench.state, console.starter, bench.clock).set_guests("hello", "a.org", ["shop"], "ann")
    assert isinstance(bench.store, MemoryStore)
    store = Beaten(bench.store, "a.org")
    leaving = await bench.console(store=store)  # type: ignore[arg-type]
    await Apps(bench.state, leaving.starter, bench.clock).undeploy("hello", "ann")
    store.guest = await guest_of(bench, "a.org")
    record = await bench.run(leaving)
    assert record is not None and record.outcome is Outcome.SUCCEEDED and store.guest is None
    claims = await bench.state.all_claims()
    assert set(claims.routes) == {("a.org", "/shop")} and set(claims.hosts) == {"a.org"}


async def test_a_name_is_not_given_back_under_a_guest_that_comes_at_that_moment(bench: Bench, console: Console) -> None:
    host = "hello.lain.localhost"
    await bench.state.hosts.put(HostClaim(host, "hello", ("shop",), default=True), host)
    assert isinstance(bench.store, MemoryStore)
    store = Beaten(bench.store, host)
    leaving = await bench.console(store=store)  # type: ignore[arg-type]
    store.guest = await guest_of(bench, host)
    apps = Apps(leaving.starter.state, leaving.starter, bench.clock)
    with pytest.raises(Conflict, match="changed meanwhile"):
        await apps.unregister("hello", "ann")
    with pytest.raises(Conflict, match="guests"):
        await apps.unregister("hello", "ann")
    assert await bench.state.apps.get("hello") is not None
