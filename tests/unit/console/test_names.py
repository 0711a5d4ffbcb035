"""Giving names and hosts back: never under somebody who comes at that moment, never with data left on a disk."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lain_console.apps import Apps
from lain_console.operations.claims import ClaimPlan, plan_claims
from lain_shared import keys
from lain_shared.errors import Conflict
from lain_shared.model.app import App, Outcome
from lain_shared.model.node import NodeState
from lain_shared.model.route import HostClaim
from lain_shared.store import Delete, Expectation, Write
from lain_shared.testing import MemoryStore
from tests.unit.console.builders import Bench, Console, release_of, web


@pytest.fixture
def bench() -> Bench:
    return Bench(MemoryStore())


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
    assert kept.value.error_code == "has_volumes" and "confirm-loss" in kept.value.next
    await bench.make_node()
    await bench.store.put(keys.NODES_STATE.key("n2"), b'{"v":99}')
    with pytest.raises(Conflict, match="what is on n2 cannot be read"):
        await apps.unregister("hello", "ann")
    await bench.store.delete(keys.NODES_STATE.key("n2"))
    await apps.unregister("hello", "ann")
    assert await bench.state.apps.get("hello") is None


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
